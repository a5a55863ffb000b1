"""Read weight files: both formats, folders of shards, and files that are not weights."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.factories.published_weights import golden_weights, trainer_checkpoint, with_prefix
from video_llama.checkpoints.files import dtype_code, opened, read_values, scan, weight_files
from video_llama.errors import CheckpointError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class RunsCode:
    """Writes a file if it is unpickled with ``weights_only=False``."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def saved(path: Path, content, **options) -> Path:
    torch.save(content, path, **options)
    return path


def refuses(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        scan(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [TENSORS, {"model": TENSORS, "epoch": 3}, {"state_dict": TENSORS}])
def test_the_state_dict_of_a_pth_file(tmp_path, content):
    path = saved(tmp_path / "a.pth", content)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in scan(path).items()} == {
        "a": ((2, 3), torch.float32),
        "b": ((4,), torch.float16),
    }
    with opened(path) as tensors:
        assert torch.equal(tensors["a"], TENSORS["a"])


def test_both_formats_are_mapped_as_long_as_their_tensors_exist(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    for path in (saved(tmp_path / "a.pth", TENSORS), tmp_path / "a.safetensors"):
        with opened(path) as tensors:
            held = dict(tensors)
        assert str(path) in Path("/proc/self/maps").read_text()
        assert all(torch.equal(held[name], tensor) for name, tensor in TENSORS.items())
        del held, tensors
        assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_pth_file_of_the_old_format(tmp_path):
    path = saved(tmp_path / "old.pth", TENSORS, _use_new_zipfile_serialization=False)
    with opened(path) as tensors:
        assert torch.equal(tensors["b"], TENSORS["b"])


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_the_code_is_not_run(tmp_path, is_zip):
    proof = tmp_path / "proof"
    content = {"model": {**TENSORS, "x": RunsCode(proof)}}
    path = saved(tmp_path / "bad.pth", content, _use_new_zipfile_serialization=is_zip)
    refuses(path, r"was refused: loading it would run code \(posix\.system\)\. Get the file from its publisher")
    assert not proof.exists()
    torch.load(path, weights_only=False)  # without weights_only, the code runs
    assert proof.exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_pickle(tmp_path, is_zip, share):
    path = saved(tmp_path / "a.pth", {"a": torch.ones(5000)}, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refuses(path, r"is (truncated|damaged).*[\d,]+ bytes\)\. Download it again")


def test_a_truncated_safetensors_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-3])
    refuses(path, "is truncated or not a safetensors file")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 13476939516\n"


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, r"is a Git-LFS pointer, not the weights.*13,476,939,516 bytes.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page, not weights"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page, not weights"),
        (b"", "is empty. Download it again"),
    ],
)
def test_files_that_are_not_weights(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    refuses(path, message)


def test_files_of_other_kinds(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("holiday.txt", "sun")
    refuses(tmp_path / "photos.pth", "a zip archive that torch.save did not write")
    (tmp_path / "text.pth").write_text("hello")
    refuses(tmp_path / "text.pth", "was not written by torch.save; it begins with b'hello'")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps([1, 2], protocol=2))
    refuses(tmp_path / "plain.pth", "is (truncated|damaged), or was not written by torch.save")
    refuses(saved(tmp_path / "list.pth", [1, 2]), "contains no state dict but list")
    refuses(saved(tmp_path / "empty_model.pth", {"epoch": 3}), "but a dict of epoch")
    (tmp_path / "notes.txt").write_text("hello")
    refuses(tmp_path / "notes.txt", "is not a weights file. Its name must end in")


def test_folders(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist\. Give a file of weights"):
        weight_files(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"contains none of model\.safetensors"):
        weight_files(tmp_path)
    saved(tmp_path / "pytorch_model-1.bin", {"a": TENSORS["a"]})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}')
    with pytest.raises(
        CheckpointError, match=r"lacks pytorch_model-2\.bin, which pytorch_model\.bin\.index\.json names"
    ):
        weight_files(tmp_path)
    saved(tmp_path / "pytorch_model-2.bin", {"b": TENSORS["b"]})
    assert [tensor.file.name for tensor in scan(tmp_path).values()] == ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    saved(tmp_path / "pytorch_model-2.bin", TENSORS)
    with pytest.raises(CheckpointError, match="both contain a"):
        scan(tmp_path)
    index.write_text("[1]")
    with pytest.raises(CheckpointError, match="is not a valid index of shards"):
        weight_files(tmp_path)


def test_of_a_trainer_checkpoint_only_the_state_dict_is_read(tmp_path):
    """The reference's trainer also saves optimizer, configuration and epoch."""
    torch.save(trainer_checkpoint(golden_weights(), "AL"), tmp_path / "checkpoint_3.pth")
    names = dict.fromkeys(scan(tmp_path / "checkpoint_3.pth"))
    assert with_prefix(names, "audio_Qformer.", "audio_llama_proj.")
    assert not with_prefix(names, "optimizer", "state", "epoch")


def test_values_are_read_in_groups_under_the_given_keys(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "a.safetensors")
    stored = {f"new.{name}": tensor for name, tensor in scan(tmp_path / "a.safetensors").items()}
    for limit in (1, 2**24):
        monkeypatch.setattr("video_llama.checkpoints.files.BYTES_AT_ONCE", limit)
        values = dict(read_values(stored))
        assert values.keys() == {"new.a", "new.b"}
        assert all(torch.equal(values[f"new.{name}"], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize(("name", "code"), [("bfloat16", "BF16"), ("uint8", "U8"), ("int64", "I64"), ("bool", "BOOL")])
def test_dtype_codes(name, code):
    assert dtype_code(getattr(torch, name)) == code


def test_an_index_must_not_name_files_outside_its_folder(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"names \.\./secret\.safetensors, which is not a file of its folder"):
        weight_files(tmp_path)
