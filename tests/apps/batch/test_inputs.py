"""Rows from folders, patterns, single files and tables."""

import json
import os
import tarfile

import fsspec
import pytest

from video_llama.apps.batch.inputs import BatchInput
from video_llama.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Media in subfolders, and files that are no media or hidden."""
    for name in ("b.mp4", "a/c.WAV", "a/notes.txt", "a/b/d.png", ".hidden.mp4", ".cache/e.mp4"):
        path = tmp_path / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "media"


def rows(source, question="What?", **values):
    return [(row.id, row.media, row.question) for row in BatchInput(str(source), question, **values).rows()]


def test_folder(folder):
    names = ["b.mp4", "a/c.WAV", "a/b/d.png"]
    assert rows(folder) == [(name, (str(folder / name),), "What?") for name in names]


def test_pattern_and_single_file(folder):
    pattern = f"{folder}/**/*.[mp]*"
    names = [str(folder / name) for name in ("a/b/d.png", "b.mp4")]
    assert rows(pattern) == [(name, (name,), "What?") for name in names]
    assert rows(folder / "b.mp4") == [("b.mp4", (names[1],), "What?")]


def test_a_name_that_is_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    open(path, "w").close()
    assert rows(tmp_path) == [("\udcff.mp4", (path,), "What?")]


def test_table_rows_keep_their_questions(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("id,media,question,questions\n1,a.mp4,,\n2,b.mp4,Why?,\n3,https://x.org/c.mp4,,Who?|How?\n")
    assert rows(table) == [
        ("1", (str(tmp_path / "a.mp4"),), "What?"),
        ("2", (str(tmp_path / "b.mp4"),), "Why?"),
        ("3/1", ("https://x.org/c.mp4",), "Who?"),
        ("3/2", ("https://x.org/c.mp4",), "How?"),
    ]
    assert rows(table, media_dir=tmp_path / "m")[0][1] == (str(tmp_path / "m" / "a.mp4"),)


def test_errors(folder, tmp_path):
    with pytest.raises(DataError, match=r"has no questions\. Give one with --question"):
        rows(folder, None)
    with pytest.raises(DataError, match="absent does not exist"):
        rows(tmp_path / "absent")
    table = tmp_path / "rows.jsonl"
    table.write_text('{"media": "a.mp4"}\n')
    with pytest.raises(DataError, match="row 1 has no question"):
        rows(table, None)


def test_sources_at_addresses(clips):
    memory = fsspec.filesystem("memory")
    for name in ("b.mp4", "a/a.mp4", "notes.txt"):
        memory.pipe(f"/inputs/{name}", b"x")
    rows = [{"media": "b.mp4"}, {"media": "s3://bucket/c.mp4"}]
    memory.pipe("/inputs/t.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    folder = list(BatchInput("memory://inputs", "?").rows())
    assert [(row.id, row.media[0]) for row in folder] == [
        ("a/a.mp4", "memory://inputs/a/a.mp4"),
        ("b.mp4", "memory://inputs/b.mp4"),
    ]
    table = list(BatchInput("memory://inputs/t.jsonl", "?").rows())
    assert [row.media[0] for row in table] == ["memory://inputs/b.mp4", "s3://bucket/c.mp4"]
    with pytest.raises(DataError, match=r"is a URL\. Put it into a table"):
        list(BatchInput("https://example.org/a.mp4", "?").rows())


def test_shards(tmp_path, clips):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(clips["video"], "a.mp4")
    [row] = BatchInput(str(tmp_path / "s.tar"), "?").rows()
    assert (row.id, row.question) == ("s/a", "?")
    with pytest.raises(DataError, match="has no question"):
        list(BatchInput(str(tmp_path / "s.tar")).rows())
    [row] = BatchInput(str(tmp_path / "s.tar"), needs_question=False).rows()
    assert row.question is None
