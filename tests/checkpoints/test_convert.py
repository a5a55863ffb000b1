import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.factories.published_weights import (
    BRANCHES,
    OPTIONS,
    golden_weights,
    with_prefix,
    write_published,
    write_yaml,
)
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.files import opened, scan
from video_llama.checkpoints.folder import read_model_folder
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.checkpoints.keys import to_reference as reference_name
from video_llama.checkpoints.loading import load_yaml_model
from video_llama.checkpoints.reference import to_reference
from video_llama.checkpoints.shards import TensorSpec, dtype_code, split_by_size, write_shards
from video_llama.checkpoints.tokenizer_files import chat_template
from video_llama.conversation import TEMPLATES, Conversation, Slot, media_message
from video_llama.errors import CheckpointError
from video_llama.files import sha256
from video_llama.models.placement import LoadOptions

SHARD = 300_000


@pytest.fixture(scope="module")
def converted(tmp_path_factory, published) -> Path:
    target = tmp_path_factory.mktemp("converted") / "model"
    convert(published, target, options=OPTIONS, max_shard_bytes=SHARD)
    return target


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    files = sorted({tensor.file for tensor in scan(path).values()})
    found = {}
    for file in files:
        with opened(file) as held:
            found |= {name: tensor.clone() for name, tensor in held.items()}
    return found


class TestFolder:
    def test_it_is_a_whole_model_folder_in_shards(self, published, converted):
        names = {path.name for path in converted.iterdir()}
        assert names >= {"config.json", "tokenizer.model", "processor_config.json", "manifest.json"}
        assert names >= {"generation_config.json", "chat_template.jinja", "model.safetensors.index.json"}
        shards = sorted(converted.glob("model-*.safetensors"))
        assert len(shards) > 3
        assert all(shard.stat().st_size < SHARD + 50_000 for shard in shards)  # a header of names comes on top
        model = read_model_folder(converted, LoadOptions(dtype="float32")).model
        again = load_yaml_model(published, LoadOptions(dtype=torch.float32), overrides=OPTIONS).model
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )

    def test_auto_classes_load_it(self, converted):
        from transformers import AutoModel, AutoTokenizer, GenerationConfig

        import video_llama.models.video_llama  # noqa: F401  (registers itself)

        model, report = AutoModel.from_pretrained(converted, dtype=torch.float32, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert model.config.prompt_template == "llama2"
        tokenizer = AutoTokenizer.from_pretrained(converted)
        assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (1, 0)
        assert GenerationConfig.from_pretrained(converted).eos_token_id == 2

    def test_every_tensor_keeps_its_type_and_the_manifest_its_sources(self, published, converted):
        dtypes = {name: tensor.dtype for name, tensor in scan(converted).items()}
        halves = {name for name, dtype in dtypes.items() if dtype == torch.float16}
        assert halves == {name for name in dtypes if name.startswith(("model.language_model.", "lm_head."))}
        sources = json.loads((converted / "manifest.json").read_text())["sources"]
        assert sources["dtype"] == "as stored"
        assert [each["role"] for each in sources["files"]] == [
            *("ViT", "BLIP-2", "decoder", "decoder", "ImageBind", "video branch", "audio branch")
        ]
        branch = sources["files"][-2]
        assert branch["sha256"] == sha256(published / branch["file"])

    def test_another_type(self, tmp_path, published):
        convert(published, tmp_path / "half", options=OPTIONS, dtype="float16")
        assert {tensor.dtype for tensor in scan(tmp_path / "half").values()} == {torch.float16}
        assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
        with pytest.raises(ValueError, match=r"dtype is 'int8'\. Choose float32"):
            convert(published, tmp_path / "int8", options=OPTIONS, dtype="int8")

    def test_an_interrupted_conversion_leaves_nothing(self, tmp_path, published, converted, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("video_llama.checkpoints.convert.write_tokenizer_files", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(published, tmp_path / "model", options=OPTIONS)
        assert list(tmp_path.iterdir()) == []

    def test_what_is_not_whole_is_not_written(self, tmp_path):
        folder = write_published(tmp_path / "published")
        (folder / "imagebind_huge.pth").write_bytes(b"<!doctype html>")
        with pytest.raises(CheckpointError, match=r"imagebind_huge\.pth is a web page"):
            convert(folder, tmp_path / "model", options=OPTIONS)
        assert not (tmp_path / "model").exists()

    def test_a_full_disk_is_told_before(self, tmp_path, published, monkeypatch):
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(CheckpointError, match=r"needs 0\.0 GB, and its disk has 0\.0 GB free\. Make room"):
            convert(published, tmp_path / "model", options=OPTIONS)
        assert list(tmp_path.iterdir()) == []


class TestBack:
    def test_there_and_back_is_exact_to_the_bit(self, tmp_path, published, converted):
        back = to_reference(converted, tmp_path / "back")
        weights, found = golden_weights(), {}
        for name in ("VL_LLaMA_2_7B_Finetuned.pth", "AL_LLaMA_2_7B_Finetuned.pth", "blip2_pretrained_flant5xxl.pth"):
            found |= torch.load(back / name, weights_only=True)["model"]
        for name, prefix in (("eva_vit_g.pth", "visual_encoder."), ("imagebind_huge.pth", "audio_encoder.")):
            held = torch.load(back / name, weights_only=True)
            found |= {prefix + own: tensor for own, tensor in held.items()}
        kept = {name for name in weights if not name.startswith("llama_model.")}
        assert found.keys() == {name for name in kept if not _is_left_out(name)}
        for name, tensor in found.items():
            assert tensor.dtype == weights[name].dtype, name
            assert torch.equal(tensor, weights[name]), name
        decoder, original = tensors_of(back / "llama-2-7b-chat-hf"), tensors_of(published / "llama-2-7b-chat-hf")
        assert decoder.keys() == {name for name in original if not name.endswith("inv_freq")}
        assert all(torch.equal(tensor, original[name]) for name, tensor in decoder.items())

    def test_what_came_back_converts_again(self, tmp_path, converted):
        back = to_reference(converted, tmp_path / "back")
        convert(back, tmp_path / "again", options=OPTIONS)
        before, after = tensors_of(converted), tensors_of(tmp_path / "again")
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert before.keys() == after.keys()

    def test_no_file_holds_more_than_its_tensors(self, tmp_path, converted):
        """Half of a joined bias is a view: saved as it is, it would bring the whole along."""
        vit = to_reference(converted, tmp_path / "back") / "eva_vit_g.pth"
        size = sum(tensor.num_bytes for tensor in scan(vit).values())
        assert vit.stat().st_size < size + 400 * len(scan(vit))

    def test_vicuna_comes_back_with_its_pad(self, tmp_path):
        folder = write_published(tmp_path / "legacy", kind="vicuna-7b", pad_row=True)
        convert(folder, tmp_path / "model", options=OPTIONS)
        decoder = to_reference(tmp_path / "model", tmp_path / "back") / "vicuna-7b"
        assert list(json.loads((decoder / "added_tokens.json").read_text())) == ["[PAD]"]
        assert (tmp_path / "back" / "finetune-vicuna7b-v2.pth").is_file()

    def test_branches_of_one_name_stay_apart(self, tmp_path):
        """As the reference's trainer leaves them: checkpoint_3.pth in two runs' folders."""
        folder = write_published(tmp_path / "published")
        options = list(OPTIONS)
        for key, branch in (("ckpt", "VL"), ("ckpt_2", "AL")):
            path = tmp_path / branch / "checkpoint_3.pth"
            path.parent.mkdir()
            (folder / f"{branch}_LLaMA_2_7B_Finetuned.pth").rename(path)
            options.append(f"model.{key}={path}")
        source = write_yaml(tmp_path / "eval.yaml", folder)
        convert(source, tmp_path / "model", options=options)
        back = to_reference(tmp_path / "model", tmp_path / "back")
        assert {path.name for path in back.glob("?L_*.pth")} == {"VL_model.pth", "AL_model.pth"}

    def test_transformers_reads_the_decoder(self, tmp_path, converted):
        from transformers import LlamaForCausalLM

        folder = to_reference(converted, tmp_path / "back") / "llama-2-7b-chat-hf"
        model, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert model.config.bos_token_id == 1

    def test_trained_parts_become_a_trainer_checkpoint(self, tmp_path):
        branch = with_prefix(golden_weights(), *BRANCHES["VL"])
        branch = {name: tensor for name, tensor in branch.items() if not name.endswith("position_ids")}
        folder = tmp_path / "step_000500"
        folder.mkdir()
        save_file(convert_state_dict(branch)[0], folder / "trained.safetensors")
        to_reference(folder, tmp_path / "checkpoint_0.pth")
        saved = torch.load(tmp_path / "checkpoint_0.pth", weights_only=True)
        assert list(saved) == ["model"]
        assert saved["model"].keys() == branch.keys()
        assert all(torch.equal(tensor, branch[name]) for name, tensor in saved["model"].items())
        with pytest.raises(CheckpointError, match=r"has to be a new file whose name ends in \.pth"):
            to_reference(folder, tmp_path / "checkpoint_0.pth")
        with pytest.raises(CheckpointError, match="is no model folder and holds 0"):
            to_reference(tmp_path, tmp_path / "x.pth")

    def test_adapters_are_refused(self, tmp_path):
        """Those that PEFT puts into a decoder, saved as a training run saves them."""
        pytest.importorskip("peft")
        from tests.factories.models import tiny_config
        from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
        from video_llama.training.config import LoraConfig
        from video_llama.training.lora import add_lora

        model = VideoLlamaForConditionalGeneration(tiny_config(380))
        add_lora(model, LoraConfig(r=2), seed=0)
        named = dict(model.named_parameters())
        save_file({name: each.data for name, each in named.items() if each.requires_grad}, tmp_path / "x.safetensors")
        with pytest.raises(
            CheckpointError, match=r"holds \d+ tensors of adapters \(.*lora_A.*Merge them into the model"
        ):
            to_reference(tmp_path / "x.safetensors", tmp_path / "x.pth")
        assert not list(tmp_path.glob("*.pth*"))
        assert all(reference_name(name) is None for name in named if "q_proj" in name)


def _is_left_out(name: str) -> bool:
    other = ("vision", "text", "depth", "thermal", "imu")
    return name.endswith(("position_ids", "inv_freq")) or any(
        f"audio_encoder.modality_{kind}.{modality}." in name
        for kind in ("trunks", "heads", "preprocessors", "postprocessors")
        for modality in other
    )


class TestShards:
    def test_what_is_written_is_what_the_library_reads(self, tmp_path):
        tensors = {
            "scalar": torch.tensor(3.5),
            "ids": torch.arange(5),
            "half": torch.randn(3, 5).half(),
            "brain": torch.randn(7).bfloat16(),
            "flags": torch.tensor([True, False, True]),
            "turned": torch.randn(4, 6).T,
            "none": torch.zeros(0, 3),
        }
        specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        names = list(write_shards(tmp_path, specs, lambda wanted: [(name, tensors[name]) for name in wanted[::-1]]))
        assert set(names) == set(tensors)
        read = load_file(tmp_path / "model.safetensors")
        assert all(read[name].dtype == t.dtype and torch.equal(read[name], t) for name, t in tensors.items())

    def test_groups(self):
        assert split_by_size({"a": 3, "b": 3, "c": 9, "d": 1}, 6) == [["a", "b"], ["c"], ["d"]]
        assert split_by_size({}, 6) == [[]]

    @pytest.mark.parametrize(
        ("name", "code"), [("bfloat16", "BF16"), ("uint8", "U8"), ("int64", "I64"), ("bool", "BOOL")]
    )
    def test_codes(self, name, code):
        assert dtype_code(getattr(torch, name)) == code


MEASURE = """
import sys
from video_llama.checkpoints import convert as module
from video_llama.models.placement import LoadOptions
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration  # the model's code counts before
from video_llama.models.placement import LoadOptions

def of(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

before = of("VmRSS")
module.convert(sys.argv[1], sys.argv[2], options=[sys.argv[3]], max_shard_bytes=int(sys.argv[4]))
print(of("VmHWM") - before)
"""


def widen_decoder(decoder: Path, width: int) -> int:
    """Replace a decoder's shards by one .bin file whose feed-forward layers are ``width`` wide; returns its size."""
    config = json.loads((decoder / "config.json").read_text())
    narrow = config["intermediate_size"]
    tensors = tensors_of(decoder)
    for name in (name for name in tensors if ".mlp." in name):
        tensors[name] = torch.ones([width if length == narrow else length for length in tensors[name].shape])
    for shard in decoder.glob("model*"):
        shard.unlink()
    torch.save(tensors, decoder / "pytorch_model.bin")
    (decoder / "config.json").write_text(json.dumps(config | {"intermediate_size": width}))
    return (decoder / "pytorch_model.bin").stat().st_size


def test_memory_does_not_grow_with_the_model(tmp_path):
    """115 MB in one file, written in shards of 20 MB; mapped pages count. A shard and a tensor are held, so less than
    three shards' worth: half of what the whole file would take."""
    folder = write_published(tmp_path / "published")
    assert widen_decoder(folder / "llama-2-7b-chat-hf", 200_000) > 115_000_000
    shard_bytes = 20_000_000
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "model"), OPTIONS[0], str(shard_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 3 * shard_bytes


@pytest.mark.parametrize("name", ["default", "llama2"])
class TestChatTemplate:
    def rendered(self, name: str, messages: list[dict], answer: bool = True) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, _ = render_jinja_template(
            conversations=[messages], chat_template=chat_template(name), add_generation_prompt=answer, bos_token="<s>"
        )
        return texts[0]

    def test_words(self, name):
        conversation = Conversation(TEMPLATES[name])
        conversation.ask("Who's there?")
        messages = [{"role": "user", "content": "Who's there?"}]
        assert self.rendered(name, messages) == "<s>" + conversation.text()
        conversation.answer("Nobody.")
        messages.append({"role": "assistant", "content": "Nobody."})
        assert self.rendered(name, messages, answer=False) == "<s>" + conversation.text()
        conversation.ask("Sure?")
        messages.append({"role": "user", "content": [{"type": "text", "text": "Sure?"}]})
        assert self.rendered(name, messages) == "<s>" + conversation.text()

    @pytest.mark.parametrize("kinds", [("video",), ("image",), ("audio",), ("audio", "video"), ("video", "audio")])
    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_media(self, name, kinds, system):
        slots = {"video": Slot("video"), "image": Slot("video"), "audio": Slot("audio")}
        conversation = Conversation(TEMPLATES[name], system)
        conversation.add_media(media_message(**{kind: slots[kind] for kind in kinds}))
        conversation.ask("What is it?")
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": "What is it?"}]
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": content})
        assert self.rendered(name, messages) == "<s>" + conversation.text()
