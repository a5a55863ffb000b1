"""``video-llama plot``: writes an image and prints its path."""

import pytest

from tests.cli.conftest import assert_one_line, invoke


def test_image(training_run, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.png"
    result = invoke("plot", training_run, "--output", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}\n"), result.output
    assert path.read_bytes().startswith(b"\x89PNG")


def test_folder_that_is_not_a_run(tmp_path):
    assert_one_line(invoke("plot", tmp_path), "DataError: ")
