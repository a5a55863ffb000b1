"""Divide the rows of a batch run into windows, and put the answers about the windows of each row together.

In: rows about one long medium each. Out: batches of rows about windows, and one result per row, with a timeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from video_llama.apps.batch.engines import BatchResult
from video_llama.apps.batch.reading import BatchReader, WindowRow
from video_llama.chat.timeline import merge
from video_llama.chat.timeline_formats import timeline_text
from video_llama.datasets.question_rows import QuestionRow
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.windows import Window, WindowPlan


@dataclass
class _OpenRow:
    """A row whose windows are not all answered."""

    row: QuestionRow
    duration: float
    windows: Sequence[Window]
    results: dict[int, dict[str, Any]] = field(default_factory=dict)


class WindowedRows:
    """Divides rows and collects results. ``reader`` reads the durations of media."""

    def __init__(self, plan: WindowPlan | ScenePlan, reader: BatchReader, batch_size: int) -> None:
        self._plan, self._reader, self._batch_size = plan, reader, batch_size
        self._open: dict[str, _OpenRow] = {}
        self._parts: dict[str, tuple[str, int]] = {}
        self._failed: list[dict[str, Any]] = []

    def batches(self, rows: Iterable[QuestionRow]) -> Iterator[Sequence[QuestionRow]]:
        """Yield batches of window rows. A batch has windows of one row only, so that its results depend on no other."""
        for row in rows:
            found = self._divided(row)
            if isinstance(found, str):
                self._failed.append(_result(row, None, found, None))
                continue
            self._open[row.id] = found
            parts = [self._part(row, number, window) for number, window in enumerate(found.windows)]
            for first in range(0, len(parts), self._batch_size):
                yield parts[first : first + self._batch_size]

    def collect(self, results: Iterable[BatchResult]) -> Iterator[BatchResult]:
        """Yield one result for each row, as soon as all of its windows are answered."""
        encode = generate = 0.0
        for result in results:
            encode, generate = encode + result.encode, generate + result.generate
            finished = [row for part in result.rows if (row := self._add(part)) is not None]
            for row in [*self._taken_failed(), *finished]:
                yield BatchResult([row], encode, generate)
                encode = generate = 0.0
        for row in self._taken_failed():
            yield BatchResult([row], 0.0, 0.0)

    def _divided(self, row: QuestionRow) -> _OpenRow | str:
        if len(row.media) != 1:
            return f"MediaError: The row has {len(row.media)} media, and windows divide one. Give one medium per row."
        found = self._reader.plan(row.media[0], row.start, row.end, self._plan)
        return found if isinstance(found, str) else _OpenRow(row, round(found[0], 3), found[1])

    def _part(self, row: QuestionRow, number: int, window: Window) -> WindowRow:
        values = {each.name: getattr(row, each.name) for each in fields(row)}
        part = WindowRow(**{**values, "id": f"{row.id}#{number}", "start": window.start, "end": window.end})
        self._parts[part.id] = (row.id, number)
        return part

    def _taken_failed(self) -> list[dict[str, Any]]:
        failed, self._failed = self._failed, []
        return failed

    def _add(self, part: dict[str, Any]) -> dict[str, Any] | None:
        """Add the result of a window; return the result of its row, if that is complete."""
        row_id, number = self._parts.pop(part["id"])
        open_row = self._open[row_id]
        open_row.results[number] = part
        if len(open_row.results) < len(open_row.windows):
            return None
        del self._open[row_id]
        return self._complete(open_row)

    def _complete(self, done: _OpenRow) -> dict[str, Any]:
        parts = [done.results[number] for number in range(len(done.windows))]
        windows = [
            {**asdict(window), **{name: part[name] for name in ("answer", "error", "record")}}
            for window, part in zip(done.windows, parts, strict=True)
        ]
        bad = next((each for each in windows if each["error"]), None)
        timeline = {"duration": done.duration, **self._plan.as_dict(), "entries": None, "windows": windows}
        if bad is not None:
            error = f"{bad['error']} (window from {bad['start']:g} s to {bad['end']:g} s)"
            return _result(done.row, None, error, timeline)
        entries = merge([(window, part["answer"]) for window, part in zip(done.windows, parts, strict=True)])
        timeline["entries"] = [entry.as_dict() for entry in entries]
        return _result(done.row, timeline_text(entries), None, timeline)


def _result(row: QuestionRow, answer: str | None, error: str | None, timeline: dict[str, Any] | None) -> dict[str, Any]:
    values = {"id": row.id, "media": list(row.media), "question": row.question, "answer": answer, "error": error}
    return {**values, "record": None, "timeline": timeline}
