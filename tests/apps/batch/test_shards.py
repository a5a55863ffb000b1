"""Rows of tar shards: patterns, questions, ids, errors."""

import io
import json
import tarfile

import fsspec
import pytest

from video_llama.apps.batch.shards import rows_of_shards, shard_addresses
from video_llama.errors import DataError


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    rows = {"questions": ["What moves?", "Where?"], "start": 0.5, "id": "ignored"}
    shard(tmp_path / "p-0.tar", {"1.mp4": b"a", "1.txt": b"a caption", "d/2.mp4": b"b", "d/2.wav": b"c"})
    shard(tmp_path / "p-1.tar", {"1.mp4": b"d", "1.json": json.dumps(rows).encode()})
    return tmp_path


@pytest.mark.parametrize("pattern", ["p-{0..1}.tar", "p-*.tar"])
def test_rows(shards, pattern):
    rows = list(rows_of_shards(str(shards / pattern), None))
    assert [row.id for row in rows] == ["p-0/1", "p-0/d/2", "p-1/1/1", "p-1/1/2"]
    assert [row.question for row in rows] == [None, None, "What moves?", "Where?"]
    assert rows[1].media == (f"{shards}/p-0.tar:d/2.mp4", f"{shards}/p-0.tar:d/2.wav")
    assert [member.member.fetch().data for row in rows for member in row.media] == [b"a", b"b", b"c", b"d", b"d"]
    assert rows[2].start == 0.5


def test_shards_of_a_store_and_their_index(shards):
    memory = fsspec.filesystem("memory")
    memory.pipe("/shards/p-0.tar", (shards / "p-0.tar").read_bytes())
    found = list(rows_of_shards("memory://shards/p-*.tar", shards / "index"))
    assert [row.id for row in found] == ["p-0/1", "p-0/d/2"]
    assert found[0].media[0].member.fetch().data == b"a"
    assert list(rows_of_shards("memory://shards/p-*.tar", shards / "index")) == found
    assert list((shards / "index").iterdir())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.txt": b"x"}, "has no medium"),
        ({"1.mp4": b"x", "1.json": b"{"}, "not valid JSON"),
        ({"1.mp4": b"x", "1.json": b"[]"}, "contains a list"),
        ({"1.mp4": b"x", "1.json": b'{"question": 1.5, "start": "a"}'}, "'start' is 'a'"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        list(rows_of_shards(str(shard(tmp_path / "a.tar", members)), None))


@pytest.mark.parametrize(
    "address", ["simplecache::http://127.0.0.1/s.tar", "HTTP://127.0.0.1/s.tar", "ftp://h/{0..1}.tar"]
)
def test_shards_at_other_addresses(address):
    with pytest.raises(DataError, match=r"supported addresses|not read over http"):
        shard_addresses(address)


def test_shards_that_cannot_be_used(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "s.tar", {"1.mp4": b"x"})
    with pytest.raises(DataError, match=r"the id 's/1' occurs twice"):
        list(rows_of_shards(str(tmp_path / "*" / "s.tar"), None))
    with pytest.raises(DataError, match="matches no shard"):
        shard_addresses(str(tmp_path / "x*.tar"))
    with pytest.raises(DataError, match="not read over http"):
        shard_addresses("https://example.org/{0..1}.tar")
    with pytest.raises(DataError, match="cannot be opened"):
        list(rows_of_shards(str(tmp_path / "absent.tar"), None))
