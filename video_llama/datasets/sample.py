"""What every annotation format becomes: a ``Sample``, one or more media with a caption or with turns."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from video_llama.conversation import Slot, TrainingTurn, media_message
from video_llama.errors import MediaError

SampleKind = Literal["video", "image", "audio"]

SHOWN = media_message(image=Slot("video"))
"""Marks a place in a turn where a medium is shown; the row's builder puts the branch's own message there."""


class NamedBytes(io.BytesIO):
    """Bytes in memory that messages can name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file inside a tar shard, by its place there. ``state`` changes when the shard does."""

    shard: str
    name: str
    offset: int
    size: int
    state: str

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def fetch(self) -> Fetched:
        """The member's bytes. Raises MediaError where the shard cannot be read or ends before them."""
        import fsspec  # type: ignore[import-untyped]

        try:
            with fsspec.open(self.shard, "rb") as file:
                file.seek(self.offset)
                data: bytes = file.read(self.size)
        except (OSError, ValueError, ImportError) as error:
            raise MediaError(f"{self} cannot be read: {error}. Check the shard's address.") from error
        if len(data) != self.size:
            raise MediaError(f"{self} has {len(data)} of {self.size} bytes. Fetch the shard again.")
        return Fetched(str(self), data)

    def open(self) -> BinaryIO:
        """The member as a file; raises as :meth:`fetch`."""
        return self.fetch().open()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A tar member whose bytes are in memory."""

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def open(self) -> BinaryIO:
        """The member as a file."""
        return NamedBytes(self.data, self.name)


SampleFile = Path | TarMember | Fetched


def source_of(file: SampleFile) -> Path | BinaryIO:
    """What the processors read."""
    return file if isinstance(file, Path) else file.open()


@dataclass(frozen=True, slots=True)
class SampleMedium:
    """One file of a sample; ``id`` is the sample's."""

    id: str
    path: SampleFile
    kind: SampleKind


@dataclass(frozen=True, slots=True)
class Sample:
    """A medium with a caption, or with turns that show it, and perhaps more media after it.

    ``id`` names the annotation for error messages ("file.json:17"). A turn has ``SHOWN`` once for every medium that it
    shows, and ``media`` are in the order of these. ``video_words`` or ``audio_words`` (ours) tell the OTHER medium of
    the audio-and-video sentence in words.
    """

    id: str
    path: SampleFile
    kind: SampleKind
    caption: str = ""
    turns: tuple[TrainingTurn, ...] = ()
    video_words: str | None = None
    audio_words: str | None = None
    uses_caption_rules: bool = True
    more_media: tuple[SampleMedium, ...] = ()
    system: str | None = None
    """The row's own system text; None takes what serving would."""

    @property
    def media(self) -> tuple[SampleMedium, ...]:
        """All media in the order in which they are shown."""
        return (SampleMedium(self.id, self.path, self.kind), *self.more_media)

    @property
    def text_length(self) -> int:
        """Characters of the text: a measure of the row's length that costs nothing."""
        return len(self.caption) + sum(len(turn.question) + len(turn.answer) for turn in self.turns)
