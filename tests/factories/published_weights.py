"""Weights in the published layouts: the reference's names and files, golden's small tensors, a test tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.factories.tokenizers import train_tokenizer
from video_llama.conversation import Tokenizer

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "dev"
BRANCHES = {
    "VL": ("video_Qformer.", "video_query_tokens", "video_frame_position_embedding.", "llama_proj."),
    "AL": ("audio_Qformer.", "audio_query_tokens", "audio_position_embedding.", "audio_llama_proj."),
}
HEADS: dict[str, Any] = {
    "vision_config": {"num_attention_heads": 4},
    "qformer_config": {"num_attention_heads": 5},
    "imagebind_audio_config": {"num_attention_heads": 5, "input_size": [36, 50], "stride": [5, 5]},
    "imagebind_vision_config": {"num_attention_heads": 4},
}
"""Settings that cannot be derived from the shapes of golden's tensors."""


def golden_weights() -> dict[str, Tensor]:
    return load_file(GOLDEN / "weights.safetensors")


def with_prefix(weights: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith(prefixes)}


def without(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def write_decoder(folder: Path, weights: dict[str, Tensor], *, kind: str, pad_row: bool = False, is_bin: bool = False):
    """Write a decoder folder in half precision, in two shards. The vocabulary is that of the test tokenizer."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(train_tokenizer(folder / "tokenizer.model"))
    num_rows = tokenizer.vocab_size + pad_row
    tensors = {name: tensor.half() for name, tensor in without(weights, "llama_model.").items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:num_rows].clone()
    golden = json.loads((GOLDEN / "config.json").read_text())["llama"]
    config = golden | {"model_type": "llama", "vocab_size": num_rows, "_name_or_path": kind, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    write_sharded(folder, tensors, is_bin=is_bin)


def write_sharded(folder: Path, tensors: dict[str, Tensor], *, is_bin: bool = False) -> None:
    names = list(tensors)
    halves = [names[::2], names[1::2]]
    stem, suffix = ("pytorch_model", ".bin") if is_bin else ("model", ".safetensors")
    files = [f"{stem}-{number:05d}-of-00002{suffix}" for number in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        held = {name: tensors[name] for name in half}
        torch.save(held, folder / file) if is_bin else save_file(held, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def vit_of_40_blocks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a ViT of 40 blocks with the parts that were used only in its training, as in the published file."""
    vit = without(weights, "visual_encoder.")
    blocks = {name: tensor for name, tensor in vit.items() if name.startswith("blocks.")}
    held = {name: tensor for name, tensor in vit.items() if name not in blocks}
    for index in range(40):
        own = without(blocks, f"blocks.{index % 3}.")
        held |= {f"blocks.{index}.{name}": tensor + 0.001 * index for name, tensor in own.items()}
    return held | {"norm.weight": torch.ones(48), "head.weight": torch.ones(5, 48), "mask_token": torch.ones(1, 1, 48)}


def write_published(
    folder: Path,
    *,
    kind: str = "llama-2-7b-chat-hf",
    is_bin: bool = False,
    pad_row: bool = False,
    deep_vit: bool = False,
) -> Path:
    """Write the folder of Video-LLaMA-2, or with a Vicuna ``kind`` the legacy folder."""
    weights = golden_weights()
    write_decoder(folder / kind, weights, kind=kind, is_bin=is_bin, pad_row=pad_row)
    vit = vit_of_40_blocks(weights) if deep_vit else without(weights, "visual_encoder.")
    torch.save(vit, folder / "eva_vit_g.pth")
    blip2 = with_prefix(weights, "Qformer.", "query_tokens", "ln_vision.")
    blip2 |= {"Qformer.cls.predictions.bias": torch.ones(3), "t5_proj.weight": torch.ones(2, 2)}
    blip2 |= {"Qformer.bert.encoder.layer.0.intermediate.dense.bias": torch.ones(3)}
    torch.save({"model": blip2}, folder / "blip2_pretrained_flant5xxl.pth")
    torch.save(without(weights, "audio_encoder."), folder / "imagebind_huge.pth")
    legacy = "vicuna" in kind
    names = {
        "VL": "finetune-vicuna7b-v2.pth" if legacy else "VL_LLaMA_2_7B_Finetuned.pth",
        "AL": "finetune_vicuna7b_audiobranch.pth" if legacy else "AL_LLaMA_2_7B_Finetuned.pth",
    }
    for branch, name in names.items():
        torch.save(trainer_checkpoint(weights, branch), folder / name)
    return folder


def trainer_checkpoint(weights: dict[str, Tensor], branch: str) -> dict[str, Any]:
    """Return a checkpoint of the reference's trainer: trained tensors, buffers of frozen parts, and its state."""
    own = with_prefix(weights, *BRANCHES[branch])
    buffers = {name: tensor for name, tensor in weights.items() if name.endswith(("position_ids", "inv_freq"))}
    scales = with_prefix(weights, "audio_encoder.modality_postprocessors.") if branch == "AL" else {}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
    return {
        "model": own | buffers | scales,
        "optimizer": optimizer,
        "config": {"run": {"seed": 42}},
        "scaler": None,
        "epoch": 3,
    }


OPTIONS = [f"model.config={json.dumps(HEADS)}"]


def write_yaml(path: Path, folder: Path, **changes: Any) -> Path:
    """Write an evaluation YAML with the reference's keys for the files of ``write_published``."""
    model = {
        "arch": "video_llama",
        "freeze_vit": True,
        "max_txt_len": 512,
        "end_sym": "###",
        "low_resource": False,
        "llama_model": str(folder / "llama-2-7b-chat-hf"),
        "imagebind_ckpt_path": str(folder),
        "ckpt": str(folder / "VL_LLaMA_2_7B_Finetuned.pth"),
        "ckpt_2": str(folder / "AL_LLaMA_2_7B_Finetuned.pth"),
        "equip_audio_branch": True,
        "fusion_head_layers": 2,
        "max_frame_pos": 10,
        "config": HEADS,
    }
    processor = {"train": {"name": "alpro_video_eval", "n_frms": 4, "image_size": 28}}
    data = {"model": model | changes, "datasets": {"webvid": {"vis_processor": processor}}}
    path.write_text(yaml.safe_dump(data | {"run": {"task": "video_text_pretrain"}}))
    return path
