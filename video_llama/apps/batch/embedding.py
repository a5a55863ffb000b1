"""Vectors of a batch whose media are read. In: rows and media. Out: one result per row, as plain data for JSON.

A result has the keys id, media, error, kind, and the vectors: frame_seconds, frame_vectors, clip_vector, audio_seconds
and audio_vectors. Vectors are float32, as base64 text of their bytes (little-endian) with their shape.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from video_llama.apps.batch.engines import BatchResult, ModelDescription
from video_llama.apps.batch.reading import ReadBatch
from video_llama.apps.media.pool import MediaNeeds
from video_llama.chat import Assistant
from video_llama.evaluation.answering import MediaKey
from video_llama.models.media_vectors import frame_vectors, sound_vectors
from video_llama.processors.medium import ReadMedium

VECTORS = ("frame_vectors", "clip_vector", "audio_vectors")
VectorRow = dict[str, Any]


def load_bulk_embedder(load: Callable[[int | None], Assistant], number: int | None) -> BulkEmbedder:
    """Load the model for a worker; see ``evaluation.workers``."""
    return BulkEmbedder(load(number))


class BulkEmbedder:
    """Computes the vectors of batches. Media with equal numbers of frames, or of sound clips, are encoded together."""

    def __init__(self, assistant: Assistant) -> None:
        self._engine, self._model = assistant.engine, assistant.engine.model.model

    def description(self) -> ModelDescription:
        """Return the description of the model."""
        return ModelDescription(MediaNeeds.of(self._engine), self._engine.weights)

    def __call__(self, batch: ReadBatch) -> BatchResult:
        """Return the vectors of a batch. Media that cannot be read are errors of their rows."""
        start = time.perf_counter()
        found = self._vectors({key: read for key, read in batch.media.items() if isinstance(read, ReadMedium)})
        rows = []
        for row in batch.rows:
            key = (row.media[0], row.start, row.end)
            read = batch.media[key]
            error = read if isinstance(read, str) else None
            rows.append({"id": row.id, "media": list(row.media), "error": error, **(found.get(key) or no_vectors())})
        return BatchResult(rows, time.perf_counter() - start, 0.0)

    def _vectors(self, media: dict[MediaKey, ReadMedium]) -> dict[MediaKey, VectorRow]:
        found = {key: {**no_vectors(), "kind": read.kind} for key, read in media.items()}
        inputs = {key: self._engine.inputs(read) for key, read in media.items()}
        for keys in _by_length({key: frames for key, (frames, _) in inputs.items()}):
            each = frame_vectors(self._model, torch.stack([_tensor(inputs[key][0]) for key in keys]))
            for key, vectors in zip(keys, each, strict=True):
                frames = media[key].frames
                assert frames is not None, "it has an input"
                found[key]["frame_seconds"] = [round(second, 3) for second in frames.seconds]
                found[key]["frame_vectors"] = packed(vectors.frames_TH.numpy())
                found[key]["clip_vector"] = packed(vectors.clip_H.numpy())
        for keys in _by_length({key: mel for key, (_, mel) in inputs.items()}):
            sounds = sound_vectors(self._model, torch.stack([_tensor(inputs[key][1]) for key in keys]))
            for key, vectors_SE in zip(keys, sounds, strict=True):
                sound = media[key].sound
                assert sound is not None, "it has an input"
                found[key]["audio_seconds"] = [round(second, 3) for second in sound.start_seconds]
                found[key]["audio_vectors"] = packed(vectors_SE.numpy())
        return found


def no_vectors() -> VectorRow:
    """Return the values of a medium without frames and sound."""
    lists: VectorRow = {"kind": None, "frame_seconds": [], "audio_seconds": []}
    return {**lists, **dict.fromkeys(VECTORS)}


def packed(array: np.ndarray) -> VectorRow:
    """Return an array as data for JSON."""
    return {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def unpacked(value: VectorRow) -> np.ndarray:
    """Return the array of ``packed``."""
    return np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"])


def _tensor(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None, "_by_length leaves it out"
    return value


def _by_length(inputs: dict[MediaKey, torch.Tensor | None]) -> Sequence[list[MediaKey]]:
    """Return the keys of the inputs in groups of equal length."""
    groups: dict[int, list[MediaKey]] = {}
    for key, value in inputs.items():
        if value is not None:
            groups.setdefault(len(value), []).append(key)
    return list(groups.values())
