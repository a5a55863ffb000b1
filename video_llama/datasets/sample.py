"""The common form of all annotations: a ``Sample``, one or more media files with a caption or with turns."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from video_llama.conversation import Slot, TrainingTurn, media_message
from video_llama.errors import DataError, MediaError
from video_llama.processors.media_file import MediaFile

SampleKind = Literal["video", "image", "audio"]

MEDIUM_PLACE = media_message(image=Slot("video"))
"""Marks the place of a medium in a turn; ``RowBuilder`` replaces it with the media message of the branch."""


LASTING_ERRORS = (FileNotFoundError, IsADirectoryError, PermissionError, ValueError, ImportError)
"""Errors of a file system that another attempt would only repeat."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar shard, identified by its offset and size in bytes. ``state`` changes when the shard changes."""

    shard: str
    name: str
    offset: int
    size: int
    state: str

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def fetch(self) -> FetchedMember:
        """Read the member into memory. Raises MediaError if the shard is unreadable or too short."""
        import fsspec  # type: ignore[import-untyped]

        try:
            with fsspec.open(self.shard, "rb") as file:
                file.seek(self.offset)
                data: bytes = file.read(self.size)
        except Exception as error:  # file systems also raise errors of their own, such as botocore's
            raise MediaError(
                f"{self} cannot be read: {error}. Check the address of the shard.",
                is_temporary=not isinstance(error, LASTING_ERRORS),
            ) from error
        if len(data) != self.size:
            raise MediaError(f"{self} has {len(data)} of {self.size} bytes. Download the shard again.")
        return FetchedMember(str(self), data)

    def open(self) -> BinaryIO:
        """Return the member as a binary file. Raises MediaError like :meth:`fetch`."""
        return self.fetch().open()


@dataclass(frozen=True, slots=True)
class FetchedMember:
    """A tar member whose bytes are in memory."""

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def open(self) -> BinaryIO:
        """Return the member as a binary file."""
        return io.BytesIO(self.data)


SampleFile = Path | TarMember | FetchedMember


def source_of(file: SampleFile) -> Path | MediaFile:
    """Return the file as the processors read it. Raises MediaError if a tar member cannot be read."""
    if isinstance(file, Path):
        return file
    fetched = file if isinstance(file, FetchedMember) else file.fetch()
    return MediaFile(fetched.data, name=fetched.name)


@dataclass(frozen=True, slots=True)
class SampleMedium:
    """One media file of a sample; ``id`` is the id of the sample."""

    id: str
    path: SampleFile
    kind: SampleKind


@dataclass(frozen=True, slots=True)
class Sample:
    """One media file with a caption, or one or more media files with turns.

    ``id`` names the annotation in error messages ("file.json:17"). The turns contain ``MEDIUM_PLACE`` once per medium,
    in the order of ``media``. ``video_words`` and ``audio_words`` (ours) describe the other medium in words, for the
    prompt that has both a video and a sound. Raises DataError for text that cannot be encoded.
    """

    id: str
    path: SampleFile
    kind: SampleKind
    caption: str = ""
    turns: tuple[TrainingTurn, ...] = ()
    video_words: str | None = None
    audio_words: str | None = None
    uses_caption_rules: bool = True
    """Whether the reference's caption processor is applied (see ``processors.text_processor``)."""
    more_media: tuple[SampleMedium, ...] = ()
    system: str | None = None
    """System text of this row. None: the default of the prompt template."""

    def __post_init__(self) -> None:
        texts = [self.caption, self.system or "", self.video_words or "", self.audio_words or ""]
        texts += [text for turn in self.turns for text in (turn.question, turn.answer)]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.id}: a text contains half of a surrogate pair ({error.object[error.start]!r}). Correct or "
                "remove the row."
            ) from error

    @property
    def media(self) -> tuple[SampleMedium, ...]:
        """All media in prompt order."""
        return (SampleMedium(self.id, self.path, self.kind), *self.more_media)

    @property
    def content(self) -> str:
        """The row as text, apart from its name and the folder of its media: what a changed annotation changes."""
        names = [(medium.kind, Path(str(medium.path)).name) for medium in self.media]
        return repr((names, self.caption, self.turns, self.system, self.video_words, self.audio_words))

    @property
    def text_length(self) -> int:
        """Number of characters of the text, an estimate of the row's length that needs no tokenization."""
        return len(self.caption) + sum(len(turn.question) + len(turn.answer) for turn in self.turns)
