"""Rows of JSON, JSONL, CSV and TSV files."""

import pytest

from video_llama.datasets.tables import named_rows, text_value
from video_llama.errors import DataError


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("a.json", '[{"x": 1}]', ("0", {"x": 1})),
        ("a.jsonl", '\n{"x": 1}\n', ("2", {"x": 1})),
        ("a.csv", "x,y\n1,2\n", ("2", {"x": "1", "y": "2"})),
        ("a.tsv", "x\ty\n1\t2\n", ("2", {"x": "1", "y": "2"})),
    ],
)
def test_rows_by_the_ending(tmp_path, name, text, first):
    path = tmp_path / name
    path.write_text(text)
    assert list(named_rows(path)) == [(f"{path}:{first[0]}", first[1])]


def test_errors_name_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{"x": \n')
    with pytest.raises(DataError, match=r"a.jsonl:2 is not one JSON object per line"):
        list(named_rows(path))
    with pytest.raises(DataError, match=r"a.jsonl:1: the row has no 'y'"):
        text_value({"x": 1}, "y", f"{path}:1")
