"""Compare the tensors of files with those of a model; a stored copy of a tied output layer is ignored."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.factories.models import make_folder, tiny_config
from video_llama.checkpoints.completeness import (
    EMBEDDING,
    NUM_NAMED,
    check_tensors,
    expected_shapes,
    first_names,
    shapes_of,
)
from video_llama.checkpoints.files import StoredTensor
from video_llama.checkpoints.folder import read_model_folder
from video_llama.checkpoints.loading import load_yaml_model
from video_llama.checkpoints.part_reports import inspect_model
from video_llama.errors import CheckpointError
from video_llama.models.placement import meta_model

EXPECTED = {"a": (2, 3), "b": (4,)}


def stored(**shapes: tuple[int, ...]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(Path("x"), name, shape, torch.float32) for name, shape in shapes.items()}


def test_expected_shapes_are_those_of_the_model():
    config = tiny_config(380)
    shapes = expected_shapes(config)
    assert shapes == shapes_of(meta_model(config))
    assert shapes["lm_head.weight"] == (382, 32)  # with the media places
    assert shapes["model.video_qformer.query_tokens"] == (1, 5, 24)


def test_of_tied_tensors_only_the_stored_one_is_expected():
    shapes = expected_shapes(tiny_config(380, text_config={"tie_word_embeddings": True}))
    assert "lm_head.weight" not in shapes
    assert "model.language_model.embed_tokens.weight" in shapes


def test_complete_files():
    check_tensors(EXPECTED, stored(a=(2, 3), b=(4,)), "folder")


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({"a": (2, 3)}, r"missing tensors \(1\): b"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, r"unexpected tensors \(1\): c"),
        ({"a": (2, 4), "b": (4,)}, r"wrong shapes \(1\): a is \[2, 4\] and must be \[2, 3\]"),
        ({"a": (1,), "c": ()}, r"missing tensors \(1\): b; unexpected tensors \(1\): c; wrong shapes \(1\): a is"),
    ],
)
def test_differences_are_errors(shapes, problem):
    with pytest.raises(
        CheckpointError, match=rf"folder: .*{problem}.*Copy the whole folder again.*video-llama inspect"
    ):
        check_tensors(EXPECTED, stored(**shapes), "folder")


def test_names_beyond_the_first_are_counted():
    names = [str(number) for number in range(NUM_NAMED + 2)]
    assert first_names(names) == "0, 1, 2, 3, 4 and 2 more"
    assert first_names(names[:NUM_NAMED]) == "0, 1, 2, 3, 4"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """A model folder with tied embeddings."""
    return make_folder(tmp_path / "tied", text_config={"tie_word_embeddings": True})


def store_output(folder: Path, *, change: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors[EMBEDDING] + change
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_stored_copy_of_the_embedding_is_ignored(tied: Path) -> None:
    before = read_model_folder(tied).model.state_dict()
    store_output(tied, change=0.0)
    after = read_model_folder(tied).model
    assert after.lm_head.weight is after.get_input_embeddings().weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.state_dict().items())
    assert inspect_model(tied).problem is None


def test_a_different_output_layer_is_an_error(tied: Path) -> None:
    store_output(tied, change=1.0)
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings is true, but the stored lm_head\.weight differs"):
        read_model_folder(tied)


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_published_decoders(tmp_path: Path, published: Path, eval_yaml: Path, change: float) -> None:
    decoder = shutil.copytree(published / "llama-2-7b-chat-hf", tmp_path / "llama-2-7b-chat-hf")
    config = json.loads((decoder / "config.json").read_text())
    (decoder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    for file in decoder.glob("*.safetensors"):
        tensors = load_file(file)
        if "lm_head.weight" in tensors:
            shared = {**tensors, **load_embedding(decoder)}["model.embed_tokens.weight"]
            save_file({**tensors, "lm_head.weight": shared + change}, file)
    overrides = [f"model.llama_model={decoder}"]
    if change:
        with pytest.raises(CheckpointError, match=r"the stored lm_head\.weight differs from embed_tokens"):
            load_yaml_model(eval_yaml, overrides=overrides)
        return
    model = load_yaml_model(eval_yaml, overrides=overrides).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def load_embedding(decoder: Path) -> dict[str, torch.Tensor]:
    found = [load_file(file) for file in decoder.glob("*.safetensors")]
    return {name: tensor for tensors in found for name, tensor in tensors.items() if "embed_tokens" in name}
