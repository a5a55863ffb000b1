"""Small files in the published layout, and what the tests of several modules do with them."""

from pathlib import Path

import pytest
import torch

from tests.factories.published_weights import OPTIONS, write_published, write_yaml
from video_llama.checkpoints.assemble import Assembly
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.files import opened, scan
from video_llama.checkpoints.loading import plan
from video_llama.checkpoints.published_files import read_eval_config
from video_llama.errors import CheckpointError

SHARD_BYTES = 300_000


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder of published files, shared by the tests of a module: not to be changed."""
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def eval_yaml(tmp_path, published) -> Path:
    """An evaluation YAML that names the files of ``published``."""
    return write_yaml(tmp_path / "eval.yaml", published)


@pytest.fixture(scope="module")
def converted(tmp_path_factory, published) -> Path:
    """The model folder made from ``published``, in several shards."""
    target = tmp_path_factory.mktemp("converted") / "model"
    convert(published, target, options=OPTIONS, max_shard_bytes=SHARD_BYTES)
    return target


def planned(source: Path, *options: str, model_type=None) -> Assembly:
    """Plan a model of golden's dimensions."""
    return plan(read_eval_config(source, [*OPTIONS, *options]), str(source), model_type)


def assert_refused(source: Path, message: str, *options: str, kind=CheckpointError, model_type=None) -> str:
    """Check that planning raises an error that matches ``message``; return its text."""
    with pytest.raises(kind, match=message) as caught:
        planned(source, *options, model_type=model_type)
    return str(caught.value)


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a file or folder into memory."""
    found = {}
    for file in sorted({tensor.file for tensor in scan(path).values()}):
        with opened(file) as tensors:
            found |= {name: tensor.clone() for name, tensor in tensors.items()}
    return found
