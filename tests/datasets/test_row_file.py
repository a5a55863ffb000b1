"""A file of rows: each row exactly once, also after a process was killed at any byte."""

import json
import os
import signal
import subprocess
import sys

import pytest

from video_llama.datasets.row_file import RowFile, complete_rows, keep_settings
from video_llama.errors import DataError

WRITER = """
import sys
from pathlib import Path
from video_llama.datasets.row_file import RowFile

with RowFile(Path(sys.argv[1])) as file:
    print(len(file.done), flush=True)
    for number in range(200_000):
        if (str(number),) not in file.done:
            file.write([{"id": str(number), "text": "x" * (number % 97)}])
"""


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_appended_once(tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    with RowFile(path) as file:
        file.write([{"id": "1", "text": "é"}, {"id": "2"}])
    with RowFile(path) as file:
        assert file.done == {("1",), ("2",)}
        file.write([{"id": "3"}])
        with pytest.raises(AssertionError, match="twice"):
            file.write([{"id": "2"}])
    assert [row["id"] for row in rows(path)] == ["1", "2", "3"]
    assert rows(path)[0]["text"] == "é"


def test_cut_at_every_byte(tmp_path):
    """Whatever part of the last line was written, the file continues with complete rows."""
    whole = '{"id": "1"}\n{"id": "2", "text": "é"}\n'.encode()
    for size in range(len(whole) + 1):
        path = tmp_path / f"{size}.jsonl"
        path.write_bytes(whole[:size])
        assert [row["id"] for row in complete_rows(path)] == ["1", "2"][: whole[:size].count(b"\n")]
        with RowFile(path) as file:
            file.write({"id": each} for each in ("1", "2") if (each,) not in file.done)
        assert [row["id"] for row in rows(path)] == ["1", "2"]


def test_a_killed_process_loses_no_row_and_writes_none_twice(tmp_path):
    path = tmp_path / "answers.jsonl"
    counts = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        counts.append(int(process.stdout.readline()))
        while path.stat().st_size < 200_000 * len(counts):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with RowFile(path) as file:
        written = [row["id"] for row in rows(path)]
        assert {(each,) for each in written} == file.done
    assert written == [str(number) for number in range(len(written))]
    assert counts[0] == 0 < counts[1] < counts[2] < len(written)


def test_two_processes_cannot_write_one_file(tmp_path):
    with RowFile(tmp_path / "a.jsonl"), pytest.raises(DataError, match="written by another process"):
        RowFile(tmp_path / "a.jsonl")


def test_several_keys(tmp_path):
    with RowFile(tmp_path / "a.jsonl", ("id", "question")) as file:
        file.write([{"id": "1", "question": "a"}, {"id": "1", "question": "b"}])
        assert file.done == {("1", "a"), ("1", "b")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]\n", "a.jsonl:1 is not a row with id"),
        ('{"id": 1}\nnot JSON\n', "a.jsonl:2 is not a row"),
        ('{"id": 1}\n{"id": 1}\n', "a.jsonl:2: 1 occurs twice"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        RowFile(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == text


def test_a_full_disk_leaves_complete_rows(tmp_path):
    """A limit on the size of files fails in the middle of a row, as a full disk does."""
    path = tmp_path / "answers.jsonl"
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nlimit = 100_000\n" + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n" + WRITER
    )
    process = subprocess.run([sys.executable, "-c", limited, str(path)], capture_output=True, text=True, check=False)
    assert "OSError" in process.stderr or "FileTooLarge" in process.stderr
    assert 99_000 < path.stat().st_size < 100_000
    assert path.read_bytes().endswith(b"\n")
    assert [row["id"] for row in rows(path)] == [str(number) for number in range(len(rows(path)))]


def test_settings_of_a_continued_run_are_compared(tmp_path):
    path = tmp_path / "run" / "settings.json"
    keep_settings(path, {"seed": 1, "frames": (1, 2)})
    keep_settings(path, {"seed": 1, "frames": [1, 2]})
    with pytest.raises(DataError, match=r"run holds results of other settings: seed was 1 and is 2. Use the same"):
        keep_settings(path, {"seed": 2, "frames": [1, 2]})
    path.write_text("{")
    with pytest.raises(DataError, match="Use a new folder"):
        keep_settings(path, {"seed": 1})


def test_rows_of_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="Give the folder of a finished run"):
        list(complete_rows(tmp_path / "absent.jsonl"))
