import resource
from pathlib import Path

import pytest

from video_llama.files import new_file, replace_text


def _write_half(path: Path) -> None:
    with new_file(path) as unfinished:
        unfinished.write_bytes(b"half of it")
        raise InterruptedError


def test_replace_text_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    replace_text(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_text(path, "new and longer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unfinished_file_does_not_appear(tmp_path: Path) -> None:
    path = tmp_path / "clips" / "1.mp4"
    with pytest.raises(InterruptedError):
        _write_half(path)
    assert list(path.parent.iterdir()) == []
    with new_file(path) as unfinished:
        unfinished.write_bytes(b"all of it")
        assert unfinished.parent == path.parent  # a rename between file systems would fail
        assert not path.exists()
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"all of it"]
