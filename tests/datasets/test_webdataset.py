"""WebDataset shards on disk and at fsspec addresses, read without unpacking."""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from fsspec.registry import known_implementations  # type: ignore[import-untyped]
from PIL import Image

from video_llama.datasets.annotations import format_of, read_samples
from video_llama.datasets.config import BuildInfo
from video_llama.datasets.sample import Sample, TarMember
from video_llama.datasets.webdataset import expand_pattern, shard_sample
from video_llama.errors import DataError
from video_llama.processors.video_processor import read_image


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def said(question: str) -> bytes:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Red."}]
    return json.dumps({"conversations": turns}).encode()


SHARD = tar_bytes(
    {
        "a/0001.png": picture(10),
        "a/0001.txt": b"A red square.\n",
        "a/0002.json": said("<image>Colour?"),
        "a/0002.png": picture(200),
    }
)


def check(samples: list[Sample]) -> None:
    captioned, asked = samples
    assert captioned.caption == "A red square."
    assert asked.turns[0].question == "Colour?"
    for sample, shade in ((captioned, 10), (asked, 200)):
        assert isinstance(sample.path, TarMember)
        frames = read_image(sample.path.open(), size=(4, 4)).frames
        assert np.array_equal(np.unique(frames), [0, shade])


def read(*shards: str, index_dir: Path | None = None) -> list[Sample]:
    return read_samples("webdataset", BuildInfo(shards=shards, index_dir=index_dir), where="datasets.big")


def test_members_are_read_inside_the_shard(tmp_path: Path) -> None:
    (tmp_path / "part-00.tar").write_bytes(SHARD)
    (tmp_path / "part-01.tar").write_bytes(tar_bytes({"b.wav": b"RIFF", "b.txt": b"Rain."}))
    pattern = str(tmp_path / "part-{00..01}.tar")
    samples = read(pattern)
    check(samples[:2])
    assert (samples[2].kind, samples[2].id) == ("audio", f"{tmp_path}/part-01.tar:b")
    assert [sample.id for sample in read(f"{tmp_path}/part-00.tar")] == [sample.id for sample in samples[:2]]


@pytest.fixture
def address() -> Iterator[str]:
    with fsspec.open("memory://shards/part.tar", "wb") as file:
        file.write(SHARD)
    yield "memory://shards/part.tar"
    fsspec.filesystem("memory").rm("/shards", recursive=True)


def test_shards_at_an_address(address: str) -> None:
    check(read(address))


def test_the_index_is_kept_until_the_shard_changes(tmp_path: Path) -> None:
    shard, index = tmp_path / "part.tar", tmp_path / "index"
    shard.write_bytes(SHARD)
    before = read(str(shard), index_dir=index)
    [kept] = index.iterdir()
    kept.write_text(kept.read_text().replace("A red square.", "From the index."))
    assert read(str(shard), index_dir=index)[0].caption == "From the index."
    shard.write_bytes(SHARD)
    os.utime(shard, (1, 1))
    after = read(str(shard), index_dir=index)
    assert after[0].caption == "A red square."
    assert before[0].path != after[0].path  # another state, so that features of the old file are not used


def test_a_pattern_expands_to_its_numbers() -> None:
    assert expand_pattern("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_pattern("{1..2}/{1..2}") == ["1/1", "1/2", "2/1", "2/2"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": b"x"}, r":1: a sample needs a medium and a .txt or .json"),
        ({"1.txt": b"x"}, r":1: a sample needs a medium"),
        ({"1.png": b"x", "1.json": b"{"}, r":1.json is not valid JSON"),
        ({"1.png": b"x", "1.json": b"[]"}, r":1.json contains a list"),
        ({"1.png": b"x", "1.json": b"{}"}, "no 'conversations', 'messages' or 'caption'"),
    ],
)
def test_errors_name_the_sample(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    (tmp_path / "part.tar").write_bytes(tar_bytes(members))
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "part.tar"))


def test_other_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "part.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match="is not a complete, uncompressed tar file"):
        read(str(tmp_path / "part.tar"))
    with pytest.raises(DataError, match="cannot be opened"):
        read(str(tmp_path / "lost.tar"))
    with pytest.raises(DataError, match=r"build_info.shards is not set"):
        read()


def test_the_error_names_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_implementations, "lost", {"class": "lost.Lost", "err": "Install lost"})
    with pytest.raises(DataError, match=r"Install lost\): pip install 'fsspec\[lost\]'"):
        read("lost://bucket/part.tar")


def sparse_member(name: str, size: int) -> bytes:
    """Return a tar file whose only member claims ``size`` bytes, of which none are stored."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("name", ["b.txt", "b.json", "b.png"])
def test_a_huge_member_is_an_error_of_its_sample(tmp_path: Path, name: str) -> None:
    """The shard is sparse: 6 GiB long, and a few kB on disk."""
    path, size = tmp_path / "a.tar", 6 * 2**30
    with path.open("wb") as file:
        file.write(tar_bytes({"a.png": picture(3), "a.txt": b"Red."})[: 512 * 4])
        file.write(sparse_member(name, size))
        file.truncate(file.tell() + size + 1024)
    info = BuildInfo(shards=(str(path),))
    rows = dict(format_of("webdataset", "x").rows(info, "x"))
    assert shard_sample(rows[f"{path}:a"], "a").caption == "Red."
    with pytest.raises(DataError, match=rf"{name} has 6,442,450,944 bytes, more than"):
        shard_sample(rows[f"{path}:b"], "b")


def test_a_huge_header_is_an_error(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 6 * 2**30
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + entry.size)
    with pytest.raises(DataError, match=r"a header of .* bytes is larger than 16,777,216"):
        read(str(path))


@pytest.mark.parametrize(
    ("text", "message"), [(b"[" * 100_000, "more than 100 lists"), (b"\xff", r"b\.json is not UTF-8 text")]
)
def test_a_damaged_text_is_an_error_of_its_sample(tmp_path: Path, text: bytes, message: str) -> None:
    members = {"a.png": picture(3), "a.txt": b"Red.", "b.png": picture(4), "b.json": text}
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(members))
    rows = dict(format_of("webdataset", "x").rows(BuildInfo(shards=(str(path),)), "x"))
    assert shard_sample(rows[f"{path}:a"], "a").caption == "Red."
    with pytest.raises(DataError, match=message):
        shard_sample(rows[f"{path}:b"], "b")


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[3]", '[{"key": 1}]', "{}"])
def test_a_damaged_index_is_written_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(SHARD)
    read(str(path), index_dir=tmp_path / "index")
    [index] = (tmp_path / "index").iterdir()
    whole = index.read_text()
    index.write_text(text)
    check(read(str(path), index_dir=tmp_path / "index"))
    assert index.read_text() == whole
