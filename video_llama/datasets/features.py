"""What frozen encoders say of each medium, computed once and kept on disk: later steps train from there.

A store is a folder of safetensors shards for one state of one encoder. Each shard holds a tensor per medium, named by
its reader's ``key``, and in its metadata the sentences about the frames' times. Shards are memory-mapped, written whole
or not at all, and never changed.
"""

# N media, T frames

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.datasets.media import FileReader, MediaForm, Readable
from video_llama.datasets.sample import MediaFile
from video_llama.errors import DataError, MediaError
from video_llama.files import new_file
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

        path = self.folder / f"{next(iter(features))}.safetensors"
        messages = {key: message for key, (_, message) in features.items()}
        tensors = {key: tensor.contiguous() for key, (tensor, _) in features.items()}
        with new_file(path) as unfinished:
            save_file(tensors, unfinished, {"messages": json.dumps(messages)})
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
    """A data set's media as features: ``frame_tokens`` [T, K, H] or embeddings [T, E]."""

    reader: FileReader
    store: FeatureStore
    form: MediaForm
    keys: dict[MediaFile, str]
    bad: dict[MediaFile, str]
    """Files that could not be read, and why."""

    def read(self, sample: Readable, seed: int) -> tuple[Tensor, str]:
        """The features of a medium that :func:`cache_media` has seen; nothing is random. MediaError for a bad one."""
        if sample.path in self.bad:
            raise MediaError(self.bad[sample.path])
        return self.store.get(self.keys[sample.path])


def cache_media(
    samples: Sequence[Readable],
    reader: FileReader,
    store: FeatureStore,
    encode: Encode,
    form: MediaForm,
    *,
    keeps_going: bool = False,
) -> CachedMedia:
    """Compute what the store lacks, and return the media as features.

    ``encode`` maps what the reader gives, [N, T, ...], to features [N, T, ...]. Raises MediaError for a file that
    cannot be read; with ``keeps_going`` it stands in the result's ``bad`` instead.
    """
    keys: dict[MediaFile, str] = {}
    bad: dict[MediaFile, str] = {}
    missing: dict[str, Readable] = {}
    for sample in samples:
        if sample.path not in keys and sample.path not in bad:
            with _noting(bad if keeps_going else None, sample):
                keys[sample.path] = reader.key(sample)
                if keys[sample.path] not in store:
                    missing[keys[sample.path]] = sample
    shard: dict[str, tuple[Tensor, str]] = {}
    calls = [list(missing.items())[start : start + MEDIA_PER_CALL] for start in range(0, len(missing), MEDIA_PER_CALL)]
    for call in progress(calls, f"computing {form}"):
        shard |= _encode(call, reader, encode, bad if keeps_going else None)
        if len(shard) >= MEDIA_PER_SHARD:
            store.add(shard)
            shard = {}
    if shard:
        store.add(shard)
    return CachedMedia(reader, store, form, keys, bad)


@contextmanager
def _noting(bad: dict[MediaFile, str] | None, sample: Readable) -> Iterator[None]:
    """Note a file that cannot be read in ``bad``; without that, let the error pass."""
    try:
        yield
    except MediaError as error:
        if bad is None:
            raise
        bad[sample.path] = str(error)


def _encode(
    media: Sequence[tuple[str, Readable]], reader: FileReader, encode: Encode, bad: dict[MediaFile, str] | None
) -> dict[str, tuple[Tensor, str]]:
    """Encode media of equal length together; unreadable ones go to ``bad``, where that is given."""
    import torch

    groups: dict[int, list[tuple[str, Tensor, str]]] = {}
    for key, sample in media:
        with _noting(bad, sample):
            medium, message = reader.read(sample, seed=0)
            groups.setdefault(len(medium), []).append((key, medium, message))
    encoded: dict[str, tuple[Tensor, str]] = {}
    for group in groups.values():
        features = encode(torch.stack([medium for _, medium, _ in group])).cpu()
        encoded |= {key: (feature, message) for (key, _, message), feature in zip(group, features, strict=True)}
    return encoded
