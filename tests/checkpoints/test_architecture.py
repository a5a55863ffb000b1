"""The configuration of a model, inferred from the shapes of its tensors."""

import gzip
import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.factories.published_weights import HEADS, golden_weights
from video_llama.checkpoints.architecture import infer_config
from video_llama.checkpoints.initialization import INITIALIZABLE_PARTS
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.errors import CheckpointError
from video_llama.models.configuration import VideoLlamaConfig

Shapes = dict[str, tuple[int, ...]]


def shapes_of(keys: dict[str, Any]) -> Shapes:
    """The shapes of a list of the reference's names, by our names."""
    tensors = {name: torch.empty(shape, device="meta") for name, (shape, *_) in keys.items()}
    return {name: tuple(tensor.shape) for name, tensor in convert_state_dict(tensors)[0].items()}


@pytest.fixture(scope="module")
def golden_shapes() -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in convert_state_dict(golden_weights())[0].items()}


@pytest.fixture(scope="module")
def text_config(repository: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((repository / "tests/golden/dev/config.json").read_text())["llama"]
    return config


@pytest.mark.parametrize("size", ["llama_7b", "llama_13b"])
def test_published_sizes_are_the_defaults(repository, size):
    """Every section but the decoder's equals the configuration's defaults, which are the published model's."""
    names = json.loads(gzip.decompress((repository / "tests/golden/full_keys.json.gz").read_bytes()))["models"][size]
    config = infer_config(shapes_of(names["keys"]), names["llama_config"])
    default = VideoLlamaConfig(text_config=names["llama_config"], with_imagebind_vision=True)
    assert config.to_dict() == default.to_dict()


def test_small_sizes(golden_shapes, text_config):
    config = infer_config(golden_shapes, text_config, HEADS)
    assert (config.vision_config.hidden_size, config.vision_config.num_attention_heads) == (48, 4)
    assert (config.qformer_config.num_hidden_layers, config.qformer_config.cross_attention_frequency) == (4, 2)
    assert config.video_qformer_config.num_attention_heads == 5
    assert (config.num_video_query_tokens, config.num_audio_query_tokens) == (5, 3)
    assert (config.max_frame_pos, config.max_audio_pos) == (10, 8)
    patches = config.vision_config.image_size // config.vision_config.patch_size
    positions = golden_shapes["model.frame_encoder.vision_model.embeddings.position_embedding"]
    assert prod(positions) == (patches**2 + 1) * 48


def test_unknown_numbers_of_heads(golden_shapes, text_config):
    message = r"heads of the ViT cannot be inferred for width 48.*Set model\.config\.vision_config\.num_attention_heads"
    with pytest.raises(CheckpointError, match=message):
        infer_config(golden_shapes, text_config)
    assert infer_config(golden_shapes, text_config, unknown_heads=1).vision_config.num_attention_heads == 1


def test_a_missing_tensor_is_named_with_its_remedy(golden_shapes, text_config):
    shapes = {name: shape for name, shape in golden_shapes.items() if "video_qformer.query_tokens" not in name}
    with pytest.raises(
        CheckpointError, match=r"do not contain video_query_tokens.*Remedy: set model\.ckpt to the file"
    ):
        infer_config(shapes, text_config, HEADS)


def test_initialized_parts_have_the_given_dimensions(golden_shapes, text_config):
    parts = [part for part in INITIALIZABLE_PARTS if part.startswith("model.video_qformer.")]
    shapes = {name: shape for name, shape in golden_shapes.items() if not name.startswith(tuple(parts))}
    config = infer_config(shapes, text_config, HEADS, initialized=parts, num_video_query_tokens=7)
    assert (config.num_video_query_tokens, config.max_frame_pos) == (7, VideoLlamaConfig().max_frame_pos)


def test_inconsistent_dimensions(golden_shapes, text_config):
    with pytest.raises(CheckpointError, match=r"dimensions of the weights are inconsistent.*Correct model\.config"):
        infer_config(golden_shapes, text_config, HEADS, fusion_head_layers=3)
