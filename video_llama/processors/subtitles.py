"""Read subtitles with their times: SubRip (.srt) and WebVTT (.vtt) files, and text tracks inside videos.

In: a file. Out: ``Subtitles``, cues in the order of their starts, without formatting. Times are in seconds; those of a
track count from the first frame of the video.
Sources: https://www.w3.org/TR/webvtt1/; SubRip has no standard.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from av.container import InputContainer

from video_llama.errors import MediaError
from video_llama.files import read_text
from video_llama.processors.media_file import MediaFile, main_video_stream, open_media

EMBEDDED = "embedded"
"""In place of a file: the first text track of the medium."""
MAX_BYTES = 16 * 2**20
TEXT_CODECS = ("subrip", "srt", "mov_text", "webvtt", "ass", "ssa", "text")
"""FFmpeg's names of subtitles that are text; others are pictures."""
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE_START = re.compile(r"\s*(\d+\s*$|\d+:\d+)|.*-->")
"""The first line of a SubRip cue: its number or its times, which may be malformed."""
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_ASS_FIELDS = 8
"""Number of commas before the text in a line of ASS, as FFmpeg's decoders write it."""


@dataclass(frozen=True)
class Cue:
    """A text that is shown from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    text: str
    """In one line."""


@dataclass(frozen=True)
class Subtitles:
    """Cues in the order of their starts. ``source`` names where they are from."""

    source: str
    cues: tuple[Cue, ...]

    def between(self, start: float, end: float) -> Subtitles:
        """Return the cues that are shown at some time from ``start`` to ``end`` (excluded)."""
        return replace(self, cues=tuple(cue for cue in self.cues if cue.start < end and cue.end > start))

    def as_dict(self) -> dict[str, Any]:
        """Return what was given, for records: the source, the number of cues, and their times."""
        ends = (self.cues[0].start, max(cue.end for cue in self.cues)) if self.cues else (None, None)
        return {"source": self.source, "num_cues": len(self.cues), "start": ends[0], "end": ends[1]}


def read_subtitles(source: str | Path, media: Any = None) -> Subtitles:
    """Read a subtitle file, or with EMBEDDED the first text track of ``media``.

    Raises MediaError for a file that cannot be read, with the line that is malformed, or without a text track.
    """
    return embedded_subtitles(media) if str(source) == EMBEDDED else read_subtitle_file(Path(source))


def read_subtitle_file(path: Path) -> Subtitles:
    """Read an .srt or .vtt file; a file that begins with WEBVTT is WebVTT. Raises MediaError as ``read_subtitles``."""
    try:
        text = read_text(path, max_bytes=MAX_BYTES)
    except UnicodeDecodeError as error:
        raise MediaError(f"{path} is not text in UTF-8 or UTF-16. Convert it: iconv -t UTF-8 FILE") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be read ({error}). Give an .srt or .vtt file.") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    is_vtt = lines[0].startswith("WEBVTT")
    cues = list(_cues(path, lines, is_vtt=is_vtt))
    if not cues:
        raise MediaError(f"{path} has no subtitles. Give an .srt or .vtt file with cues.")
    return Subtitles(str(path), tuple(sorted(cues, key=lambda cue: (cue.start, cue.end))))


def _cues(path: Path, lines: Sequence[str], *, is_vtt: bool) -> Iterator[Cue]:
    """Yield the cues of the blocks, which are separated by empty lines.

    Many SubRip files have empty lines in the text of a cue: there, a block without times continues the text before it.
    """
    number, last = 0, None
    while number < len(lines):
        if not lines[number].strip():
            number += 1
            continue
        first = number
        while number < len(lines) and lines[number].strip():
            number += 1
        block = lines[first:number]
        if is_vtt and (first == 0 or block[0].split(" ")[0] in ("NOTE", "STYLE", "REGION")):
            continue
        # An identifier or number may precede the times.
        at = 0 if "-->" in block[0] else 1
        if last is not None and not is_vtt and not _CUE_START.match(block[0]):
            last = Cue(last.start, last.end, f"{last.text} {_plain(' '.join(block))}")
            continue
        if last is not None:
            yield last
        last = _cue(path, block, first, at)
    if last is not None:
        yield last


def _cue(path: Path, block: Sequence[str], first: int, at: int) -> Cue:
    line = min(first + at, first + len(block) - 1) + 1
    found = _TIMES.match(block[at]) if at < len(block) else None
    if found is None:
        shown = block[min(at, len(block) - 1)].strip()[:60]
        raise MediaError(
            f"{path}, line {line}: {shown!r} is not a line of times. Write for example 00:01:02,500 --> 00:01:04,000 "
            "above the text, and an empty line below it."
        )
    start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
    if end < start:
        raise MediaError(f"{path}, line {line}: the end ({end:g} s) is before the start ({start:g} s). Correct it.")
    return Cue(start, end, _plain(" ".join(block[at + 1 :])))


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    assert minutes is not None, "the pattern requires it"
    assert fraction is not None, "the pattern requires it"
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds or 0) + int(fraction.ljust(3, "0")) / 1000


def _plain(text: str) -> str:
    """Return a text without tags, entities and line breaks."""
    return " ".join(html.unescape(_TAGS.sub("", text)).split())


def embedded_subtitles(source: Any) -> Subtitles:
    """Read the first text track of a medium. Raises MediaError as ``read_subtitles``."""
    if source is None or isinstance(source, (list, tuple)):
        raise MediaError("Frames have no subtitle track. Give a video file, or a subtitle file.")
    with open_media(source) as media, media.container() as container:
        return _track(media, container)


def _track(media: MediaFile, container: InputContainer) -> Subtitles:
    streams = container.streams.subtitles
    stream = next((each for each in streams if each.codec_context.name in TEXT_CODECS), None)
    if stream is None:
        kinds = ", ".join(each.codec_context.name for each in streams)
        found = f"has subtitles as pictures ({kinds})" if kinds else "has no subtitle track"
        raise MediaError(f"{media.name} {found}, and a text track is required. Give an .srt or .vtt file.")
    video = main_video_stream(container)
    first = 0.0
    if video is not None and video.start_time is not None and video.time_base is not None:
        first = float(video.start_time * video.time_base)
    cues = []
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None or packet.time_base is None:
            continue
        start = float(packet.pts * packet.time_base) - first
        end = start + float((packet.duration or 0) * packet.time_base)
        texts = [_ass_text(part) for part in stream.codec_context.decode2(packet) or ()]
        if text := _plain(" ".join(texts)):
            cues.append(Cue(max(0.0, round(start, 3)), round(max(start, end), 3), text))
    return Subtitles(f"{media.name} ({stream.codec_context.name})", tuple(sorted(cues, key=lambda cue: cue.start)))


def _ass_text(part: Any) -> str:
    line = getattr(part, "ass", b"")
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else str(line)
    return text.split(",", _ASS_FIELDS)[-1].replace("\\N", " ").replace("\\n", " ")


def subtitled_question(subtitles: Subtitles | None, question: str) -> str:
    """Return the question, after the cues with their times in seconds; without cues, the question alone."""
    if subtitles is None or not subtitles.cues:
        return question
    lines = [f"{cue.start:.1f} to {cue.end:.1f} seconds: {cue.text}" for cue in subtitles.cues if cue.text]
    return "\n".join(["Subtitles of the video:", *lines, question])
