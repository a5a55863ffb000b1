"""Export a model folder, or trained parts, to the reference's files."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from tests.checkpoints.conftest import tensors_of
from tests.factories.models import tiny_config
from tests.factories.published_weights import (
    BRANCHES,
    OPTIONS,
    golden_weights,
    with_prefix,
    write_published,
    write_yaml,
)
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.export import export_to_reference
from video_llama.checkpoints.files import scan
from video_llama.checkpoints.keys import convert_state_dict, to_reference
from video_llama.errors import CheckpointError
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.config import LoraConfig
from video_llama.training.lora import add_lora


def test_export_restores_every_tensor_exactly(tmp_path, published, converted):
    back = export_to_reference(converted, tmp_path / "back")
    weights, found = golden_weights(), {}
    for name in ("VL_LLaMA_2_7B_Finetuned.pth", "AL_LLaMA_2_7B_Finetuned.pth", "blip2_pretrained_flant5xxl.pth"):
        found |= torch.load(back / name, weights_only=True)["model"]
    for name, prefix in (("eva_vit_g.pth", "visual_encoder."), ("imagebind_huge.pth", "audio_encoder.")):
        held = torch.load(back / name, weights_only=True)
        found |= {prefix + own: tensor for own, tensor in held.items()}
    kept = {name for name in weights if not name.startswith("llama_model.")}
    assert found.keys() == {name for name in kept if not _is_dropped(name)}
    for name, tensor in found.items():
        assert tensor.dtype == weights[name].dtype, name
        assert torch.equal(tensor, weights[name]), name
    decoder, original = tensors_of(back / "llama-2-7b-chat-hf"), tensors_of(published / "llama-2-7b-chat-hf")
    assert decoder.keys() == {name for name in original if not name.endswith("inv_freq")}
    assert all(torch.equal(tensor, original[name]) for name, tensor in decoder.items())


def test_exported_files_can_be_converted_again(tmp_path, converted):
    back = export_to_reference(converted, tmp_path / "back")
    convert(back, tmp_path / "again", options=OPTIONS)
    before, after = tensors_of(converted), tensors_of(tmp_path / "again")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert before.keys() == after.keys()


def test_a_file_contains_only_its_tensors(tmp_path, converted):
    """Half of a joined bias is a view; saved without a copy, the whole bias would be saved."""
    vit = export_to_reference(converted, tmp_path / "back") / "eva_vit_g.pth"
    size = sum(tensor.num_bytes for tensor in scan(vit).values())
    assert vit.stat().st_size < size + 400 * len(scan(vit))


def test_vicuna_keeps_its_padding_token(tmp_path):
    folder = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
    convert(folder, tmp_path / "model", options=OPTIONS)
    decoder = export_to_reference(tmp_path / "model", tmp_path / "back") / "vicuna-7b"
    assert list(json.loads((decoder / "added_tokens.json").read_text())) == ["[PAD]"]
    assert (tmp_path / "back" / "finetune-vicuna7b-v2.pth").is_file()


def test_branches_from_files_of_the_same_name(tmp_path):
    """The reference's trainer writes files such as checkpoint_3.pth into the folder of each run."""
    folder = write_published(tmp_path / "published")
    options = list(OPTIONS)
    for key, branch in (("ckpt", "VL"), ("ckpt_2", "AL")):
        path = tmp_path / branch / "checkpoint_3.pth"
        path.parent.mkdir()
        (folder / f"{branch}_LLaMA_2_7B_Finetuned.pth").rename(path)
        options.append(f"model.{key}={path}")
    source = write_yaml(tmp_path / "eval.yaml", folder)
    convert(source, tmp_path / "model", options=options)
    back = export_to_reference(tmp_path / "model", tmp_path / "back")
    assert {path.name for path in back.glob("?L_*.pth")} == {"VL_model.pth", "AL_model.pth"}


def test_transformers_reads_the_decoder(tmp_path, converted):
    folder = export_to_reference(converted, tmp_path / "back") / "llama-2-7b-chat-hf"
    model, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.bos_token_id == 1


def test_trained_parts_become_a_trainer_checkpoint(tmp_path):
    branch = with_prefix(golden_weights(), *BRANCHES["VL"])
    branch = {name: tensor for name, tensor in branch.items() if not name.endswith("position_ids")}
    folder = tmp_path / "step_000500"
    folder.mkdir()
    save_file(convert_state_dict(branch)[0], folder / "trained.safetensors")
    export_to_reference(folder, tmp_path / "checkpoint_0.pth")
    saved = torch.load(tmp_path / "checkpoint_0.pth", weights_only=True)
    assert list(saved) == ["model"]
    assert saved["model"].keys() == branch.keys()
    assert all(torch.equal(tensor, branch[name]) for name, tensor in saved["model"].items())
    with pytest.raises(CheckpointError, match=r"must be a new file whose name ends in \.pth"):
        export_to_reference(folder, tmp_path / "checkpoint_0.pth")
    with pytest.raises(CheckpointError, match=r"is not a model folder, and has 0 \.safetensors files"):
        export_to_reference(tmp_path, tmp_path / "x.pth")


def test_adapters_are_refused(tmp_path):
    """Adapters that PEFT adds to a decoder, saved as in a training run."""
    pytest.importorskip("peft")
    model = VideoLlamaForConditionalGeneration(tiny_config(380))
    add_lora(model, LoraConfig(r=2), seed=0)
    named = dict(model.named_parameters())
    save_file({name: each.data for name, each in named.items() if each.requires_grad}, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"contains adapters \(\d+ tensors, such as .*lora_A.*Merge them.*video-llama merge"
    ):
        export_to_reference(tmp_path / "x.safetensors", tmp_path / "x.pth")
    assert not list(tmp_path.glob("*.pth*"))
    assert all(to_reference(name) is None for name in named if "q_proj" in name)


def _is_dropped(name: str) -> bool:
    other = ("vision", "text", "depth", "thermal", "imu")
    return name.endswith(("position_ids", "inv_freq")) or any(
        f"audio_encoder.modality_{kind}.{modality}." in name
        for kind in ("trunks", "heads", "preprocessors", "postprocessors")
        for modality in other
    )
