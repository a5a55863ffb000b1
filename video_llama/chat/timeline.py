"""The answers about the windows of a long medium, merged into a timeline; and one summary of them.

In: windows with answers, in the order of their starts. Out: ``Timeline``, with entries that do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from video_llama.chat.record import Answer
from video_llama.chat.timeline_formats import TimelineEntry, render, timeline_format
from video_llama.files import replace_text
from video_llama.processors.windows import Window

COMMON = ("question", "weights", "decoding")
"""Keys of the answers' records that are the same for all windows."""


@dataclass(frozen=True)
class WindowAnswer:
    """The answer about one window, with its record."""

    window: Window
    answer: Answer

    def as_dict(self) -> dict[str, Any]:
        """Return times, answer, and the record without what all windows have in common."""
        values = {name: value for name, value in self.answer.as_dict().items() if name not in COMMON}
        return {"start": self.window.start, "end": self.window.end, **values}


@dataclass(frozen=True)
class Timeline:
    """The answers about a long medium. ``entries`` are the merged answers; ``windows`` the single ones."""

    source: str
    duration: float
    """Duration of the medium, in seconds."""
    question: str
    windowing: dict[str, Any]
    """How the medium was divided: ``window`` and ``stride`` in seconds, or the settings of the scene cuts."""
    windows: tuple[WindowAnswer, ...]
    summary: Answer | None = None

    @property
    def entries(self) -> list[TimelineEntry]:
        """The merged answers; see :func:`merge`."""
        return merge([(each.window, each.answer.text) for each in self.windows])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers: the entries, and the record of each window."""
        record = self.windows[0].answer.as_dict()
        return {
            "source": self.source,
            "duration": self.duration,
            "question": self.question,
            **self.windowing,
            "entries": [entry.as_dict() for entry in self.entries],
            "summary": None if self.summary is None else self.summary.text,
            "weights": record["weights"],
            "decoding": record["decoding"],
            "windows": [each.as_dict() for each in self.windows],
            "summary_record": None if self.summary is None else self.summary.record.as_dict(),
        }

    def render(self, format_name: str = "text") -> str:
        """Return the timeline as text, json, srt or vtt. Raises ValueError for another format."""
        summary = None if self.summary is None else self.summary.text
        return render(format_name, self.entries, summary, self.as_dict)

    def save(self, path: str | Path) -> None:
        """Write the timeline in the format that the ending of ``path`` names: .txt, .json, .srt or .vtt.

        Raises ValueError for another ending.
        """
        replace_text(Path(path), self.render(timeline_format(Path(path))))


def merge(answers: Sequence[tuple[Window, str]]) -> list[TimelineEntry]:
    """Merge the answers about windows, in the order of their starts, into entries that do not overlap.

    Two windows that overlap are cut at the middle of the overlap. Neighbouring parts with the same answer (apart from
    white space) become one entry; parts with a gap between them stay separate.
    """
    entries: list[TimelineEntry] = []
    start = answers[0][0].start if answers else 0.0
    for number, (window, text) in enumerate(answers):
        following = answers[number + 1][0] if number + 1 < len(answers) else None
        is_cut = following is not None and following.start < window.end
        end = round((following.start + window.end) / 2, 6) if following is not None and is_cut else window.end
        text = " ".join(text.split())
        last = entries[-1] if entries else None
        if last is not None and last.text == text and last.end >= start:
            entries[-1] = replace(last, end=end, windows=(*last.windows, number))
        else:
            entries.append(TimelineEntry(start, end, text, (number,)))
        start = end if following is None or is_cut else following.start
    return entries
