"""Results as Parquet."""

import json
import sys

import pytest

from video_llama.apps.batch.parquet import require_pyarrow, write_parquet
from video_llama.errors import MissingExtraError

ROWS = [
    {"id": "1", "media": ["a.mp4"], "question": "?", "answer": "A ü.", "error": None, "record": {"prompt": "p"}},
    {"id": "\udcff", "media": ["\udcff"], "question": "?", "answer": None, "error": "MediaError: no", "record": None},
]


def test_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_parquet(ROWS, tmp_path / "out.parquet")
    first, second = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert json.loads(first.pop("record")) == ROWS[0]["record"]
    assert first == {key: value for key, value in ROWS[0].items() if key != "record"}
    assert second == {**ROWS[1], "id": "\\udcff", "media": ["\\udcff"]}


def test_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'video-llama\[parquet\]'"):
        require_pyarrow()
