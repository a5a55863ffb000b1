"""Write a timeline as text, JSON, SubRip (.srt) or WebVTT (.vtt).

Sources: https://www.w3.org/TR/webvtt1/ for WebVTT; SubRip has no standard, and is written as FFmpeg reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("text", "json", "srt", "vtt")
ENDINGS = {".txt": "text", ".json": "json", ".srt": "srt", ".vtt": "vtt"}
EMPTY_ANSWER = "(empty answer)"


@dataclass(frozen=True)
class TimelineEntry:
    """A part of a timeline, in seconds. ``windows`` are the numbers of the windows that it comes from, from 0."""

    start: float
    end: float
    text: str
    """The answer, in one line."""
    windows: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"start": self.start, "end": self.end, "text": self.text, "windows": list(self.windows)}


def timeline_format(path: Path) -> str:
    """Return the format of a file by its ending. Raises ValueError for an unknown one."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path} does not end in {', '.join(ENDINGS)}. Give such a name, or set the format.")
    return ENDINGS[path.suffix.lower()]


def render(
    format_name: str, entries: Sequence[TimelineEntry], summary: str | None, as_dict: Callable[[], dict[str, Any]]
) -> str:
    """Return the entries in a format, ending with a line break. SubRip has no place for the summary.

    Raises ValueError for an unknown format.
    """
    if format_name == "text":
        return timeline_text(entries, summary) + "\n"
    if format_name == "json":
        return json.dumps(as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format_name == "srt":
        return _srt(entries)
    if format_name == "vtt":
        return _vtt(entries, summary)
    raise ValueError(f"format is {format_name!r}. Choose {', '.join(FORMATS)}.")


def timeline_text(entries: Sequence[TimelineEntry], summary: str | None = None) -> str:
    """Return one line for each entry, and the summary after an empty line."""
    lines = [f"{clock(entry.start)} - {clock(entry.end)}  {entry.text or EMPTY_ANSWER}" for entry in entries]
    return "\n".join(lines if summary is None else [*lines, "", f"Summary: {summary}"])


def clock(seconds: float) -> str:
    """Return a time as H:MM:SS.s."""
    return _time(seconds, decimals=1, hour_digits=1)


def _srt(entries: Sequence[TimelineEntry]) -> str:
    cues: list[str] = []
    for entry in entries:
        if entry.text:
            times = f"{_time(entry.start)} --> {_time(entry.end)}".replace(".", ",")
            text = entry.text.replace("-->", "->")  # there is no escape for it
            cues.append(f"{len(cues) + 1}\n{times}\n{text}\n")
    return "\n".join(cues)


def _vtt(entries: Sequence[TimelineEntry], summary: str | None) -> str:
    blocks = ["WEBVTT\n"]
    if summary is not None:
        line = " ".join(summary.split()).replace("-->", "->")
        blocks.append(f"NOTE Summary: {line}\n")
    for entry in entries:
        if entry.text:
            text = entry.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            blocks.append(f"{_time(entry.start)} --> {_time(entry.end)}\n{text}\n")
    return "\n".join(blocks)


def _time(seconds: float, *, decimals: int = 3, hour_digits: int = 2) -> str:
    units = round(seconds * 10**decimals)
    whole, rest = divmod(units, 10**decimals)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:0{hour_digits}d}:{minute:02d}:{second:02d}.{rest:0{decimals}d}"
