"""``video-llama embed`` and the example that searches its vectors."""

import subprocess
import sys

import numpy as np
import pytest

from tests.cli.conftest import assert_one_line, invoke


def test_a_folder(model_path, clips, tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").symlink_to(clips["video"])
    arguments = (
        "embed",
        tmp_path / "media",
        tmp_path / "v.npz",
        "--model",
        model_path,
        "--device",
        "cpu",
        "--frames",
        3,
    )
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "1 rows, 1 embedded, 0 with errors" in result.stdout
    with np.load(tmp_path / "v.npz") as arrays:
        assert len(arrays["frame_vectors"]) == 3
    assert "All rows were embedded before." in invoke(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "v.npz"), "DataError: absent does not exist"),
        (("a", "v.txt"), "ValueError: The results are to be written to v.txt"),
        (("a", "s3://bucket/v.npz"), "ValueError: The results are to be written to the address s3:/bucket/v.npz"),
        (("a", "v.npz", "--engine", "dask"), "ValueError: --engine is 'dask'. Choose local or ray."),
    ],
)
def test_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(invoke("embed", *arguments), message)


def test_search(repository, tmp_path):
    """The nearest clip of an example is itself; by sound, the clip with the same hum follows."""
    examples = repository / "examples"
    assert invoke("embed", examples, tmp_path / "v.npz").exit_code == 0

    def search(*options):
        command = [sys.executable, examples / "search.py", tmp_path / "v.npz", examples / "two_shapes.mp4", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    by_clip, by_sound = search(), search("--by", "sound")
    assert by_clip[0] == ["1.000", "two_shapes.mp4"]
    assert {name for _, name in by_clip[1:]} == {"square_with_hum.mp4", "silent_star.mp4"}
    assert all(float(similarity) < 0.5 for similarity, _ in by_clip[1:])
    assert [name for _, name in by_sound] == ["two_shapes.mp4", "square_with_hum.mp4"]
    assert float(by_sound[1][0]) > 0.9
