"""Vectors as Parquet and as NumPy arrays."""

import numpy as np
import pytest

from video_llama.apps.batch.embedding import no_vectors, packed
from video_llama.apps.batch.vector_files import write_npz, write_vector_parquet

FRAMES, CLIP, SOUND = (np.arange(6.0).reshape(2, 3), np.arange(3.0), np.arange(8.0).reshape(2, 4))
ROWS = [
    {"id": "bad", "media": ["\udcff.mp4"], "error": "MediaError: bad", **no_vectors()},
    {
        "id": "v",
        "media": ["v.mp4"],
        "error": None,
        "kind": "video",
        "frame_seconds": [0.0, 1.0],
        "frame_vectors": packed(FRAMES),
        "clip_vector": packed(CLIP),
        "audio_seconds": [0.5, 2.5],
        "audio_vectors": packed(SOUND),
    },
]


def test_npz(tmp_path):
    write_npz(ROWS, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz") as file:
        arrays = dict(file)
    assert arrays["ids"].tolist() == ["bad", "v"]
    assert arrays["media"].tolist() == ["\\udcff.mp4", "v.mp4"]
    assert arrays["errors"].tolist() == ["MediaError: bad", ""]
    assert arrays["kinds"].tolist() == ["", "video"]
    for name, vectors, rows in (("frame", FRAMES, [1, 1]), ("clip", CLIP[None], [1]), ("audio", SOUND, [1, 1])):
        np.testing.assert_array_equal(arrays[f"{name}_vectors"], vectors)
        assert arrays[f"{name}_rows"].tolist() == rows
    assert arrays["audio_seconds"].tolist() == [0.5, 2.5]
    assert arrays["frame_vectors"].dtype == np.float32


def test_npz_without_vectors(tmp_path):
    write_npz(ROWS[:1], tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz") as file:
        assert len(file["clip_vectors"]) == len(file["audio_rows"]) == 0


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_vector_parquet(ROWS, tmp_path / "v.parquet")
    bad, good = parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert (bad["error"], bad["clip_vector"], bad["frame_vectors"]) == ("MediaError: bad", None, [])
    assert (good["frame_vectors"], good["clip_vector"]) == (FRAMES.tolist(), CLIP.tolist())
    assert (good["audio_vectors"], good["audio_seconds"]) == (SOUND.tolist(), [0.5, 2.5])
