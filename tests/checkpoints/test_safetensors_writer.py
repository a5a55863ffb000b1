"""Write safetensors files tensor by tensor."""

import pytest
import torch
from safetensors.torch import load_file

from video_llama.checkpoints.files import read_values, scan
from video_llama.checkpoints.safetensors_writer import TensorSpec, split_by_size, write_shards


def test_the_library_reads_what_is_written(tmp_path):
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
    names = list(write_shards(tmp_path, specs, lambda group: [(name, tensors[name]) for name in group[::-1]]))
    assert set(names) == set(tensors)
    read = load_file(tmp_path / "model.safetensors")
    assert all(read[name].dtype == t.dtype and torch.equal(read[name], t) for name, t in tensors.items())


def test_groups_of_limited_size():
    assert split_by_size({"a": 3, "b": 3, "c": 9, "d": 1}, 6) == [["a", "b"], ["c"], ["d"]]
    assert split_by_size({}, 6) == [[]]


def test_shards_with_an_index(tmp_path):
    tensors = {name: torch.full((1000,), float(number)) for number, name in enumerate("abc")}
    specs = {name: TensorSpec((1000,), torch.float32) for name in tensors}
    read = []
    for _ in write_shards(
        tmp_path, specs, lambda group: (read.append(group), [(n, tensors[n]) for n in group])[1], 8000
    ):
        pass
    assert read == [["a", "b"], ["c"]]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
    }
    stored = scan(tmp_path)
    assert {name: tensor.file.name for name, tensor in stored.items()} == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    assert all(torch.equal(value, tensors[name]) for name, value in read_values(stored))


def test_a_value_of_another_type_is_a_bug(tmp_path):
    specs = {"a": TensorSpec((2,), torch.float32)}
    with pytest.raises(AssertionError, match="a"):
        list(write_shards(tmp_path, specs, lambda group: [("a", torch.zeros(2, dtype=torch.float16))]))
