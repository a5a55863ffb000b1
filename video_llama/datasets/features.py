"""What frozen encoders say of each medium, computed once and kept on disk: later steps train from there.

A store is a folder of safetensors shards for one state of one encoder. Each shard holds a tensor per medium, named by
its reader's ``key`` (the medium's bytes and what is sampled of them), and in its metadata the sentences about the
frames' times. Shards are memory-mapped, written whole or not at all, and never changed.
"""

# N media, T frames

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.datasets.content_hash import ContentHashes
from video_llama.datasets.media import FileReader, MediaForm, Readable
from video_llama.datasets.sample import SampleFile, SampleKind
from video_llama.errors import DataError, MediaError
from video_llama.files import new_file
from video_llama.log import logger, progress

if TYPE_CHECKING:
    from torch import Tensor

MEDIA_PER_SHARD = 512
MEDIA_PER_CALL = 16
KEYS = "content"
"""What shards' keys name media by, in their metadata. Those of before named them by path, size and time."""

Encode = Callable[["Tensor"], "Tensor"]


class FeatureStore:
    """Features by key, from the shards of one folder."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``, which may be empty or missing. Raises DataError for a shard that cannot be read."""
        self.folder = folder
        self._messages: dict[str, str] = {}
        self._shards: dict[str, Any] = {}
        old = [path for path in sorted(folder.glob("*.safetensors")) if not self._open(path)]
        if old:
            logger.warning(
                "%s: %d shards, such as %s, name media by path and time, as an earlier version did. They are not read, "
                "and what they hold is computed anew; delete them.",
                folder,
                len(old),
                old[0].name,
            )

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def __len__(self) -> int:
        return len(self._shards)

    def get(self, key: str) -> tuple[Tensor, str]:
        """The features and the sentence. KeyError if they are not there."""
        return self._shards[key].get_tensor(key), self._messages[key]

    def add(self, features: Mapping[str, tuple[Tensor, str]]) -> None:
        """Write one more shard. Raises DataError where it cannot be written; what was there stays."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self.folder / f"{next(iter(features))}.safetensors"
        messages = {key: message for key, (_, message) in features.items()}
        tensors = {key: tensor.contiguous() for key, (tensor, _) in features.items()}
        try:
            with new_file(path) as unfinished:
                save_file(tensors, unfinished, {"messages": json.dumps(messages), "keys": KEYS})
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path} cannot be written: {error}. Make room and run again; all others are kept."
            ) from error
        self._open(path)

    def _open(self, path: Path) -> bool:
        """Take a shard in; false for one whose keys are of the earlier form."""
        from safetensors import SafetensorError, safe_open

        try:
            shard = safe_open(path, framework="pt")
            metadata = shard.metadata()  # type: ignore[no-untyped-call]
            messages = json.loads(metadata["messages"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is no shard of features ({error}). Delete it: it is computed anew.") from error
        if metadata.get("keys") != KEYS:
            return False
        self._messages |= messages
        self._shards |= dict.fromkeys(messages, shard)
        return True


@dataclass(frozen=True)
class CachedMedia:
    """A data set's media as features: ``frame_tokens`` [T, K, H] or embeddings [T, E]."""

    reader: FileReader
    store: FeatureStore
    form: MediaForm
    keys: dict[tuple[SampleFile, SampleKind], str]
    bad: dict[SampleFile, str]
    """Files that could not be read, and why."""

    def read(self, sample: Readable, seed: int) -> tuple[Tensor, str]:
        """The features of a medium that :func:`cache_media` has seen; nothing is random. MediaError for a bad one."""
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
    """Compute what the store lacks, and return the media as features.

    ``encode`` maps what the reader gives, [N, T, ...], to features [N, T, ...]. Raises MediaError for a file that
    cannot be read; with ``keeps_going`` it stands in the result's ``bad`` instead. However it ends, what is computed
    goes into the store.
    """
    keys: dict[tuple[SampleFile, SampleKind], str] = {}
    bad: dict[SampleFile, str] = {}
    num_kept, num_read = len(store), contents.num_read
    with _filling(store, encode) as missing:
        media = {(sample.path, sample.kind): sample for sample in samples}
        for file, sample in progress(media.items(), f"computing {form}", len(media)):
            with _noting(bad if keeps_going else None, sample):
                content = contents.of(sample.path)
                key = reader.key(sample, content.sha256)
                if key not in missing:
                    medium, message = reader.read(replace(sample, path=content.file), seed=0)
                    contents.check(content, sample.path)
                    missing.add(key, medium, message)
                keys[file] = key
    computed, read = len(store) - num_kept, contents.num_read - num_read
    logger.info("%s: %d media, %d computed now, %d files hashed", form, len(media), computed, read)
    return CachedMedia(reader, store, form, keys, bad)


@contextmanager
def _noting(bad: dict[SampleFile, str] | None, sample: Readable) -> Iterator[None]:
    """Note a file that cannot be read in ``bad``; without that, let the error pass. Either names the annotation."""
    try:
        yield
    except MediaError as error:
        message = str(error) if str(error).startswith(f"{sample.id}: ") else f"{sample.id}: {error}"
        if bad is None:
            raise MediaError(message) from error
        bad[sample.path] = message


@dataclass
class _Filling:
    """Media on their way into a store: encoded ``MEDIA_PER_CALL`` at a time, written ``MEDIA_PER_SHARD`` at a time."""

    store: FeatureStore
    encode: Encode
    read: dict[str, tuple[Tensor, str]] = field(default_factory=dict)
    encoded: dict[str, tuple[Tensor, str]] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.store or key in self.read or key in self.encoded

    def add(self, key: str, medium: Tensor, message: str) -> None:
        """Take a medium in; encode and write when there are enough."""
        self.read[key] = medium, message
        if len(self.read) == MEDIA_PER_CALL:
            self.encode_read()
        if len(self.encoded) >= MEDIA_PER_SHARD:
            self.write()

    def encode_read(self) -> None:
        """Encode media of equal length together."""
        import torch

        groups: dict[int, list[str]] = {}
        for key, (medium, _) in self.read.items():
            groups.setdefault(len(medium), []).append(key)
        for keys in groups.values():
            features = self.encode(torch.stack([self.read[key][0] for key in keys])).cpu()
            self.encoded |= {key: (feature, self.read[key][1]) for key, feature in zip(keys, features, strict=True)}
        self.read = {}

    def write(self) -> None:
        """Write what is encoded as one shard."""
        encoded, self.encoded = self.encoded, {}
        if encoded:
            self.store.add(encoded)


@contextmanager
def _filling(store: FeatureStore, encode: Encode) -> Iterator[_Filling]:
    """A filling whose media are in the store in the end; of one that is broken off, those that were encoded."""
    filling = _Filling(store, encode)
    try:
        yield filling
        filling.encode_read()
    finally:
        filling.write()
