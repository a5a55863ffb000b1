"""Convert published files to a model folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoints.conftest import SHARD_BYTES, tensors_of
from tests.factories.published_weights import OPTIONS, write_published
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.files import scan
from video_llama.checkpoints.folder import read_model_folder
from video_llama.checkpoints.loading import load_yaml_model
from video_llama.errors import CheckpointError
from video_llama.files import sha256
from video_llama.models.placement import LoadOptions


def test_a_complete_model_folder_in_shards(published, converted):
    names = {path.name for path in converted.iterdir()}
    assert names >= {"config.json", "tokenizer.model", "processor_config.json", "manifest.json"}
    assert names >= {"generation_config.json", "chat_template.jinja", "model.safetensors.index.json"}
    shards = sorted(converted.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert all(shard.stat().st_size < SHARD_BYTES + 50_000 for shard in shards)  # plus a header of names
    model = read_model_folder(converted, LoadOptions(dtype="float32")).model
    again = load_yaml_model(published, LoadOptions(dtype=torch.float32), overrides=OPTIONS).model
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_tensors_keep_their_type_and_the_manifest_lists_the_sources(published, converted):
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


def test_another_data_type(tmp_path, published):
    convert(published, tmp_path / "half", options=OPTIONS, dtype="float16")
    assert {tensor.dtype for tensor in scan(tmp_path / "half").values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    with pytest.raises(ValueError, match=r"dtype is 'int8'\. Choose float32"):
        convert(published, tmp_path / "int8", options=OPTIONS, dtype="int8")


def test_an_interrupted_conversion_leaves_nothing(tmp_path, published, converted, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("video_llama.checkpoints.convert.write_rest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(published, tmp_path / "model", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_for_incomplete_files(tmp_path):
    folder = write_published(tmp_path / "published")
    (folder / "imagebind_huge.pth").write_bytes(b"<!doctype html>")
    with pytest.raises(CheckpointError, match=r"imagebind_huge\.pth is a web page"):
        convert(folder, tmp_path / "model", options=OPTIONS)
    assert not (tmp_path / "model").exists()


def test_disk_space_is_checked_first(tmp_path, published, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"needs 0\.0 GB, but its disk has 0\.0 GB free\. Free some space"):
        convert(published, tmp_path / "model", options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import sys
from video_llama.checkpoints import convert as module
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration  # imported before measuring

def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

before = status("VmRSS")
module.convert(sys.argv[1], sys.argv[2], options=[sys.argv[3]], max_shard_bytes=int(sys.argv[4]))
print(status("VmHWM") - before)
"""


def widen_decoder(decoder: Path, width: int) -> int:
    """Replace a decoder's shards with one .bin file whose feed-forward layers have ``width`` units; return its size."""
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
    """115 MB in one file, written in shards of 20 MB. Mapped pages count. One shard and one tensor are in memory, less
    than three shards: half the size of the file."""
    folder = write_published(tmp_path / "published")
    assert widen_decoder(folder / "llama-2-7b-chat-hf", 200_000) > 115_000_000
    shard_bytes = 20_000_000
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "model"), OPTIONS[0], str(shard_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 3 * shard_bytes
