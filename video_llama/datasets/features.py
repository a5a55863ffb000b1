"""A disk cache of the features that the frozen encoders compute for each medium, so that each is encoded only once.

A store is a folder of safetensors shards for one encoder with fixed weights. Each shard has one tensor per medium,
named by the reader's ``key`` (the content of the file and the sampling settings). The sentences about the frame times
are in its metadata. Shards are memory-mapped, written atomically, and never modified.
Each has a checksum file (``.sha256``). A shard with a wrong checksum or format is deleted and computed again.
"""

# N media, T frames

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from video_llama.datasets.content_hash import ContentHashes
from video_llama.datasets.media import FileReader, MediaForm, Readable
from video_llama.datasets.sample import SampleFile, SampleKind
from video_llama.errors import DataError, MediaError
from video_llama.files import checksum_file, is_damaged, new_file, parse_json, write_checksum
from video_llama.log import logger, progress

MEDIA_PER_SHARD = 512
MEDIA_PER_CALL = 16
KEYS = "content"
"""Shard metadata: keys are based on the content of the files. Earlier versions used path, size and time."""

Encode = Callable[[Tensor], Tensor]


class FeatureStore:
    """Features by key, in the shards of one folder."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``, which may be empty or missing. Damaged shards are deleted, with a warning."""
        self.folder = folder
        self._messages: dict[str, str] = {}
        self._shards: dict[str, Any] = {}
        shards = [path for path in sorted(folder.glob("*.safetensors")) if self._is_intact(path)]
        old = [path for path in shards if not self._open(path)]
        if old:
            logger.warning(
                "%s: %d shards, such as %s, use keys of path and time, from an earlier version. They are ignored, and "
                "their features are computed again. Delete them.",
                folder,
                len(old),
                old[0].name,
            )

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    def get(self, key: str) -> tuple[Tensor, str]:
        """Return the features and the sentence about the frame times. Raises KeyError for an unknown key."""
        return self._shards[key].get_tensor(key), self._messages[key]

    def add(self, features: Mapping[str, tuple[Tensor, str]]) -> None:
        """Write a new shard. Raises DataError on failure; the existing shards are kept."""
        path = self.folder / f"{next(iter(features))}.safetensors"
        messages = {key: message for key, (_, message) in features.items()}
        tensors = {key: tensor.contiguous() for key, (tensor, _) in features.items()}
        try:
            with new_file(path) as unfinished:
                save_file(tensors, unfinished, {"messages": json.dumps(messages), "keys": KEYS})
                write_checksum(path, content=unfinished)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path} cannot be written: {error}. Free disk space and run again; the other shards are kept."
            ) from error
        self._open(path)

    def _is_intact(self, path: Path) -> bool:
        """Return whether a shard can be used; delete it otherwise. Raises DataError if that fails."""
        try:
            problem = "it differs from its checksum" if is_damaged(path) else None
            if problem is None:
                _read_messages(path)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            problem = str(error)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}. Check its permissions, or delete it.") from error
        if problem is None:
            return True
        logger.warning("%s is damaged (%s). It is deleted, and its features are computed again.", path, problem)
        try:
            path.unlink(missing_ok=True)
            checksum_file(path).unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path} is damaged and cannot be deleted: {error}. Delete it.") from error
        return False

    def _open(self, path: Path) -> bool:
        """Open an intact shard. Return False if its keys are from an earlier version."""
        shard, metadata, messages = _read_messages(path)
        if metadata.get("keys") != KEYS:
            return False
        self._messages |= messages
        self._shards |= dict.fromkeys(messages, shard)
        return True


def _read_messages(path: Path) -> tuple[Any, dict[str, str], dict[str, str]]:
    """Return an open shard, its metadata, and its sentences by key."""
    shard = safe_open(path, framework="pt")
    metadata = shard.metadata()  # type: ignore[no-untyped-call]
    messages = parse_json(metadata["messages"])
    if not isinstance(messages, dict) or set(messages) != set(shard.keys()):  # type: ignore[no-untyped-call]
        raise ValueError("its metadata does not name its tensors")
    return shard, metadata, messages


@dataclass(frozen=True)
class CachedMedia:
    """Reader of the cached features of a data set: ``frame_tokens`` [T, K, H] or embeddings [T, E]."""

    store: FeatureStore
    form: MediaForm
    keys: dict[tuple[SampleFile, SampleKind], str]
    bad: dict[SampleFile, str]
    """Error message of each unreadable file."""

    def read(self, sample: Readable, seed: int) -> tuple[Tensor, str]:
        """Return the features of a medium; ``seed`` is not used. Raises MediaError for an unreadable medium."""
        if sample.path in self.bad:
            raise MediaError(self.bad[sample.path])
        return self.store.get(self.keys[sample.path, sample.kind])


def cache_media(
    samples: Sequence[Readable],
    reader: FileReader,
    store: FeatureStore,
    contents: ContentHashes,
    encode: Encode,
    form: MediaForm,
    *,
    keeps_going: bool = False,
) -> CachedMedia:
    """Compute the features that are missing in ``store`` and return a reader of all of them.

    ``encode`` maps media [N, T, ...] from ``reader`` to features [N, T, ...]. Raises MediaError for an unreadable file;
    with ``keeps_going`` the error is added to ``CachedMedia.bad`` instead. Features that were computed before an error
    or interruption are kept in the store.
    """
    keys: dict[tuple[SampleFile, SampleKind], str] = {}
    bad: dict[SampleFile, str] = {}
    num_kept, num_read = len(store), contents.num_read
    with _store_writer(store, encode) as writer:
        media = {(sample.path, sample.kind): sample for sample in samples}
        for file, sample in progress(media.items(), f"computing {form}", len(media)):
            with _collecting_errors(bad if keeps_going else None, sample):
                content = contents.of(sample.path)
                key = reader.key(sample, content.sha256)
                if key not in writer:
                    medium, message = reader.read(replace(sample, path=content.file), seed=0)
                    contents.check(content, sample.path)
                    writer.add(key, medium, message)
                keys[file] = key
    computed, read = len(store) - num_kept, contents.num_read - num_read
    logger.info("%s: %d media, %d computed now, %d files hashed", form, len(media), computed, read)
    return CachedMedia(store, form, keys, bad)


@contextmanager
def _collecting_errors(bad: dict[SampleFile, str] | None, sample: Readable) -> Iterator[None]:
    """Add the error of an unreadable file to ``bad``, or raise it if that is None. The message names the annotation."""
    try:
        yield
    except MediaError as error:
        message = str(error) if str(error).startswith(f"{sample.id}: ") else f"{sample.id}: {error}"
        if bad is None:
            raise MediaError(message) from error
        bad[sample.path] = message


@dataclass
class _StoreWriter:
    """Encodes media in batches of ``MEDIA_PER_CALL`` and writes them to a store in shards of ``MEDIA_PER_SHARD``."""

    store: FeatureStore
    encode: Encode
    read: dict[str, tuple[Tensor, str]] = field(default_factory=dict)
    encoded: dict[str, tuple[Tensor, str]] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.store or key in self.read or key in self.encoded

    def add(self, key: str, medium: Tensor, message: str) -> None:
        """Add a medium. Encode and write when a batch or a shard is complete."""
        self.read[key] = medium, message
        if len(self.read) == MEDIA_PER_CALL:
            self.encode_read()
        if len(self.encoded) >= MEDIA_PER_SHARD:
            self.write()

    def encode_read(self) -> None:
        """Encode the pending media, those of equal length in one call."""
        groups: dict[int, list[str]] = {}
        for key, (medium, _) in self.read.items():
            groups.setdefault(len(medium), []).append(key)
        for keys in groups.values():
            features = self.encode(torch.stack([self.read[key][0] for key in keys])).cpu()
            self.encoded |= {key: (feature, self.read[key][1]) for key, feature in zip(keys, features, strict=True)}
        self.read = {}

    def write(self) -> None:
        """Write the encoded media as one shard."""
        encoded, self.encoded = self.encoded, {}
        if encoded:
            self.store.add(encoded)


@contextmanager
def _store_writer(store: FeatureStore, encode: Encode) -> Iterator[_StoreWriter]:
    """Yield a writer and write its media at the end; after an error, only those already encoded."""
    writer = _StoreWriter(store, encode)
    try:
        yield writer
        writer.encode_read()
    finally:
        writer.write()
