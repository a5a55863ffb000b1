"""Find the clips that are most similar to a clip, or to a sound.

    video-llama embed clips/ vectors.npz
    python examples/search.py vectors.npz query.mp4
    python examples/search.py vectors.npz query.wav --by sound

The similarity is the cosine of the clip vectors or, by sound, the largest cosine of two sound clips.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from video_llama.cli import app

BY = {"clip": "clip", "frame": "frame", "sound": "audio"}
"""What is compared -> the arrays of the file of vectors."""


def similarities(index: dict[str, np.ndarray], query: dict[str, np.ndarray], by: str) -> np.ndarray:
    """Return the similarity of the query to each medium of the index [R]; NaN for media without such vectors."""
    name = BY[by]
    vectors, wanted = (_unit(each[f"{name}_vectors"]) for each in (index, query))
    if not len(wanted):
        raise SystemExit(f"The query has no {by} vectors. Choose another --by, or another file.")
    found = np.full(len(index["ids"]), np.nan)
    if len(vectors):
        best = (vectors @ wanted.T).max(axis=1)
        np.fmax.at(found, index[f"{name}_rows"], best)
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def load(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that ``video-llama embed`` wrote."""
    with np.load(path) as arrays:
        return dict(arrays)


def embed(path: Path, model: str) -> dict[str, np.ndarray]:
    """Return the vectors of one file."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "query.npz"
        with redirect_stdout(sys.stderr):
            app(["embed", str(path), str(output), "--model", model], standalone_mode=False)
        return load(output)


def main() -> None:
    """Print the nearest media, one per line: similarity and id."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, help="file of vectors, .npz")
    parser.add_argument("query", type=Path, help="video, image or sound")
    parser.add_argument("--by", choices=BY, default="clip", help="what is compared")
    parser.add_argument("--model", default="miniature", help="the model that computed the vectors")
    parser.add_argument("--top", type=int, default=5, help="number of results")
    arguments = parser.parse_args()
    index = load(arguments.vectors)
    found = similarities(index, embed(arguments.query, arguments.model), arguments.by)
    order = [number for number in np.argsort(-found) if not np.isnan(found[number])]
    for number in order[: arguments.top]:
        print(f"{found[number]:.3f}  {index['ids'][number]}")


if __name__ == "__main__":
    main()
