"""Read weight files: both formats, folders of shards, and files that are not weights."""

import json
import os
import pickle
import random
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.factories.published_weights import golden_weights, trainer_checkpoint, with_prefix
from video_llama.checkpoints.files import dtype_code, opened, read_values, scan, weight_files, without_wrappers
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


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("module.a.weight", "a.weight"),
        ("module.module.a.weight", "a.weight"),
        ("_orig_mod.a.weight", "a.weight"),
        ("module._orig_mod.a.weight", "a.weight"),
        ("_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.a.weight", "model.layers.0.a.weight"),
        ("model.layers.0._checkpoint_wrapped_module._orig_mod.a.weight", "model.layers.0.a.weight"),
        ("llama_proj.module.bias", "llama_proj.bias"),
        ("modules.a.weight", "modules.a.weight"),
        ("a.module_list.weight", "a.module_list.weight"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_of_training_wrappers_are_removed(tmp_path, stored, name, suffix):
    assert without_wrappers(stored) == name
    path, value = tmp_path / f"a{suffix}", torch.arange(3.0)
    save_file({stored: value}, path) if suffix == ".safetensors" else torch.save({"model": {stored: value}}, path)
    found = scan(path)
    assert list(found) == [name]
    assert found[name].stored_name == stored
    assert torch.equal(dict(read_values(found))[name], value)
    with opened(path) as tensors:
        assert torch.equal(tensors[name], value)


def test_two_names_that_become_one_are_an_error(tmp_path):
    path = saved(tmp_path / "a.pth", {"module.a": torch.ones(2), "a": torch.zeros(2)})
    refuses(path, r"has both module\.a and a\. Remove one of them")


@pytest.mark.parametrize(
    "content", [{"module": TENSORS}, {"state_dict": {"model": TENSORS}}, {"model": {"module": TENSORS}}]
)
def test_a_state_dict_inside_a_state_dict_is_found(tmp_path, content):
    assert set(scan(saved(tmp_path / "a.pth", content))) == {"a", "b"}


@pytest.mark.parametrize("shape", [(0,), (0, 4096)])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_zero_3_shard_is_named(tmp_path, shape, suffix):
    path, tensors = tmp_path / f"a{suffix}", {**TENSORS, "empty": torch.zeros(shape)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    refuses(path, r"empty has no values.*is a shard of DeepSpeed ZeRO-3 or FSDP.*zero_to_fp32\.py")


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(1).expand(10**6, 10**6), torch.ones(3).to_sparse(), torch.empty(3, device="meta")],
    ids=["expanded", "sparse", "meta"],
)
def test_tensors_without_all_their_values_are_an_error(tmp_path, tensor):
    refuses(saved(tmp_path / "a.pth", {"a": tensor}), "a (does not hold all its values|.*)")


def test_many_tensors_are_refused_in_bounded_time(tmp_path):
    start = time.perf_counter()
    header = {f"layers.{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(300_000)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * 300_000))
    refuses(path, "has more than 100,000 tensors")
    archive = tmp_path / "a.pth"
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(100_100):
            file.writestr(f"archive/data/{i}", b"")
    refuses(archive, "has more than 100,000 members")
    assert time.perf_counter() - start < 60


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    refuses(tmp_path / "a.pth", "is a compressed zip archive, which torch.save does not write")


@pytest.mark.parametrize(
    "name", ["../b.safetensors", "/etc/passwd", "..", "x/b.safetensors", "", ".", "./b.safetensors"]
)
def test_an_index_names_files_of_its_folder_only(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "b.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refuses(folder, "which is not a (file of its folder|safetensors file)")


def test_a_symbolic_link_to_a_shard_is_followed(tmp_path):
    """Folders of the cache of Hugging Face consist of links to files elsewhere."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "blob.safetensors")
    (folder / "b.safetensors").symlink_to("../blob.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    assert set(scan(folder)) == {"a", "b"}


def test_an_index_of_safetensors_names_no_pickles(tmp_path):
    saved(tmp_path / "a.pth", TENSORS)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a.pth"}}))
    refuses(tmp_path, "names a.pth, which is not a safetensors file")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[1]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": ["b"]}}'],
)
def test_a_damaged_index_is_one_line(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not a valid index of shards") as caught:
        scan(tmp_path)
    assert len(str(caught.value)) < 400


def test_missing_shards_are_counted(tmp_path):
    weight_map = {f"a{i}": f"{i}.safetensors" for i in range(20_000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="and 19995 more, which") as caught:
        scan(tmp_path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["a.pth", "old.pth", "a.safetensors"])
def test_damaged_files_raise_one_kind_of_error(tmp_path, name):
    """Bytes are changed, removed and inserted at random places; the seed is fixed."""
    path, chance = tmp_path / name, random.Random(5)
    if name.endswith(".safetensors"):
        save_file(TENSORS, path)
    else:
        saved(path, {"model": TENSORS}, _use_new_zipfile_serialization=name == "a.pth")
    whole = path.read_bytes()
    messages = []
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(min(len(data), 900))
            data[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        path.write_bytes(data)
        try:
            scan(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("\n" not in message for message in messages)
