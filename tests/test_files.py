import resource
from pathlib import Path

import pytest

from video_llama.files import (
    MAX_JSON_DEPTH,
    checksum_file,
    is_damaged,
    new_file,
    parse_json,
    read_json,
    read_text,
    replace_text,
    write_checksum,
)


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('["é"]', encoding=encoding)
    assert read_text(path) == '["é"]'
    assert read_json(path) == ["é"]


def test_a_text_that_is_too_long_or_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="the file has 3 bytes; at most 2 are allowed"):
        read_json(path, max_bytes=2)
    path.write_bytes(b"\xff\x00\xfa")
    with pytest.raises(ValueError, match="decode"):
        read_json(path)


@pytest.mark.parametrize("left", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 600, 1_000_000])
def test_deep_json_is_an_error(left: str, depth: int) -> None:
    right = {"[": "]", '{"a":': "}"}[left]
    with pytest.raises(ValueError, match="more than 100 lists and objects are inside each other"):
        parse_json(left * depth + "1" + right * depth)
    parse_json(left * MAX_JSON_DEPTH + "1" + right * MAX_JSON_DEPTH)


def test_wide_json_is_read() -> None:
    assert len(parse_json(f"[{','.join(['[{}]'] * 5000)}]")) == 5000


def test_a_changed_file_differs_from_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    assert not is_damaged(path)  # without a checksum
    write_checksum(path)
    assert checksum_file(path).read_text().endswith("  a.bin\n")  # the format of sha256sum
    assert not is_damaged(path)
    path.write_bytes(b"abd")
    assert is_damaged(path)
    checksum_file(path).write_bytes(b"")
    assert is_damaged(path)
