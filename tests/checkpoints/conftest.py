"""Small files of the published layout, and an evaluation YAML that names them."""

from pathlib import Path

import pytest

from tests.factories.published_weights import write_published, write_yaml


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def eval_yaml(tmp_path, published) -> Path:
    return write_yaml(tmp_path / "eval.yaml", published)
