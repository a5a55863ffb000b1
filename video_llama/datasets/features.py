"""What frozen encoders say of each medium, computed once and kept on disk: later steps train from there.

A store is a folder of safetensors shards for one state of one encoder. Each shard holds a tensor per medium, named by
``FrameReader.key``, and in its metadata the sentences about the frames' times. Shards are memory-mapped, written whole
or not at all, and never changed.
"""

# N media, T frames

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.datasets.annotations import Sample
from video_llama.datasets.media import FrameReader, MediaForm
from video_llama.errors import DataError
from video_llama.log import progress

if TYPE_CHECKING:
    from torch import Tensor

MEDIA_PER_SHARD = 512
MEDIA_PER_CALL = 16

Encode = Callable[["Tensor"], "Tensor"]


class FeatureStore:
    """Features by key, from the shards of one folder."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``, which may be empty or missing. Raises DataError for a shard that cannot be read."""
        self.folder = folder
        self._messages: dict[str, str] = {}
        self._shards: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    def get(self, key: str) -> tuple[Tensor, str]:
        """The features and the sentence. KeyError if they are not there."""
        return self._shards[key].get_tensor(key), self._messages[key]

    def add(self, features: Mapping[str, tuple[Tensor, str]]) -> None:
        """Write one more shard."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{next(iter(features))}.safetensors"
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        messages = {key: message for key, (_, message) in features.items()}
        tensors = {key: tensor.contiguous() for key, (tensor, _) in features.items()}
        save_file(tensors, unfinished, {"messages": json.dumps(messages)})
        os.replace(unfinished, path)
        self._open(path)

    def _open(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            shard = safe_open(path, framework="pt")
            messages = json.loads(shard.metadata()["messages"])  # type: ignore[no-untyped-call]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is no shard of features ({error}). Delete it: it is computed anew.") from error
        self._messages |= messages
        self._shards |= dict.fromkeys(messages, shard)


@dataclass(frozen=True)
class CachedMedia:
    """A data set's media as features: ``frame_tokens`` [T, K, H] or ``clip_embeddings`` [T, E]."""

    reader: FrameReader
    store: FeatureStore
    form: MediaForm
    keys: dict[Path, str]

    def read(self, sample: Sample, seed: int) -> tuple[Tensor, str]:
        """The features of a sample that :func:`cache_media` has seen; nothing is random."""
        return self.store.get(self.keys[sample.path])


def cache_media(
    samples: Sequence[Sample], reader: FrameReader, store: FeatureStore, encode: Encode, form: MediaForm
) -> CachedMedia:
    """Compute what the store lacks, and return the samples' media as features.

    ``encode`` maps frames [N, T, 3, H, W] to features [N, T, ...]. Raises MediaError for a file that cannot be read.
    """
    keys: dict[Path, str] = {}
    missing: dict[str, Sample] = {}
    for sample in samples:
        if sample.path not in keys:
            keys[sample.path] = reader.key(sample)
            if keys[sample.path] not in store:
                missing[keys[sample.path]] = sample
    shard: dict[str, tuple[Tensor, str]] = {}
    calls = [list(missing.items())[start : start + MEDIA_PER_CALL] for start in range(0, len(missing), MEDIA_PER_CALL)]
    for call in progress(calls, f"computing {form}"):
        shard |= _encode(call, reader, encode)
        if len(shard) >= MEDIA_PER_SHARD:
            store.add(shard)
            shard = {}
    if shard:
        store.add(shard)
    return CachedMedia(reader, store, form, keys)


def _encode(media: Sequence[tuple[str, Sample]], reader: FrameReader, encode: Encode) -> dict[str, tuple[Tensor, str]]:
    """Encode media of equal length together."""
    import torch

    groups: dict[int, list[tuple[str, Tensor, str]]] = {}
    for key, sample in media:
        frames, message = reader.read(sample, seed=0)
        groups.setdefault(len(frames), []).append((key, frames, message))
    encoded: dict[str, tuple[Tensor, str]] = {}
    for group in groups.values():
        features = encode(torch.stack([frames for _, frames, _ in group])).cpu()
        encoded |= {key: (feature, message) for (key, _, message), feature in zip(group, features, strict=True)}
    return encoded
