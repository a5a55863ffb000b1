r"""People's own rows in, Samples out: captions, LLaVA's ``conversations``, and ``messages``.

```
{"audio": "rain.wav", "caption": "Rain on a roof."}
{"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", ...}]}
{"videos": ["a.mp4"], "messages": [{"role": "user", "content": "<video>What happens?"}, {"role": "assistant", ...}]}
```
Media stand under ``image``, ``video`` and ``audio`` (or ``images``, ``videos``, ``audios``), each a path or a list of
paths. ``<image>``, ``<video>`` and ``<audio>`` in the questions say where each is shown; where no question holds any,
all are shown with the first. The layouts are those of LLaVA's data and of LLaMA-Factory's and ms-swift's data guides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from video_llama.conversation import TrainingTurn
from video_llama.datasets.sample import SHOWN, Sample, SampleKind, SampleMedium
from video_llama.errors import DataError

MARK = re.compile(r"<(image|video|audio)>")
_KINDS: tuple[SampleKind, ...] = ("image", "video", "audio")
_SIDES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Said = tuple[str, str]
"""Who speaks ("user" or "assistant") and what."""


def own_sample(row: Any, name: str, folder: Path) -> Sample:
    """One row; relative paths start from ``folder``.

    Raises DataError for a row without media or text, for sides that do not alternate, and for marks that do not agree
    with the media.
    """
    if not isinstance(row, dict):
        raise DataError(f"{name}: the row is a {type(row).__name__}, not an object. Repair or drop it.")
    media = {kind: [SampleMedium(name, folder / path, kind) for path in _paths(row, kind, name)] for kind in _KINDS}
    if not any(media.values()):
        raise DataError(f"{name}: the row has no image, video or audio. Add one of these keys, or drop the row.")
    return conversation_sample(row, name, media)


def conversation_sample(row: dict[str, Any], name: str, media: dict[SampleKind, list[SampleMedium]]) -> Sample:
    """The row's caption or turns around media that are known already; raises as :func:`own_sample`."""
    everything = [medium for kind in _KINDS for medium in media.get(kind, [])]
    if "caption" in row:
        if not row["caption"] or not isinstance(row["caption"], str):
            raise DataError(f"{name}: 'caption' holds {row['caption']!r}. Give a text, or drop the row.")
        if len(everything) != 1:
            raise DataError(f"{name}: a caption needs exactly one medium, not {len(everything)}. Repair or drop it.")
        return Sample(name, everything[0].path, everything[0].kind, caption=row["caption"])
    system, said = _said(row, name)
    turns, order = _turns(said, media, everything, name)
    first, *more = order
    return Sample(name, first.path, first.kind, turns=turns, more_media=tuple(more), system=system)


def _paths(row: dict[str, Any], kind: SampleKind, name: str) -> Iterator[str]:
    for key in (kind, f"{kind}s"):
        given = row.get(key) or []
        for path in given if isinstance(given, list) else [given]:
            if not isinstance(path, str) or not path:
                raise DataError(f"{name}: {key!r} holds {path!r}. Give a path, or a list of paths.")
            yield path


def _said(row: dict[str, Any], name: str) -> tuple[str | None, list[Said]]:
    """The system text and the turns' texts, in whichever of the two layouts the row has."""
    keys = ("from", "value") if "conversations" in row else ("role", "content")
    entries = row.get("conversations") or row.get("messages")
    if not entries or not isinstance(entries, list):
        raise DataError(f"{name}: the row has no 'conversations', 'messages' or 'caption'. Repair or drop it.")
    said = [_entry(entry, keys, name) for entry in entries]
    system = row.get("system")
    if said[0][0] == "system":
        system = said.pop(0)[1]
    if system is not None and not isinstance(system, str):
        raise DataError(f"{name}: 'system' holds {system!r}. Give a text, or leave it out.")
    if not said or [side for side, _ in said] != ["user", "assistant"] * (len(said) // 2):
        raise DataError(f"{name}: the sides do not alternate, question then answer. Repair or drop it.")
    return system, said


def _entry(entry: Any, keys: tuple[str, str], name: str) -> Said:
    side, text = (entry.get(key) if isinstance(entry, dict) else None for key in keys)
    if not isinstance(side, str) or side not in _SIDES or not isinstance(text, str):
        raise DataError(
            f"{name}: {entry!r} is no turn. It needs {keys[0]!r} ({', '.join(_SIDES)}) and text {keys[1]!r}."
        )
    return _SIDES[side], text


def _turns(
    said: Sequence[Said], media: dict[SampleKind, list[SampleMedium]], everything: list[SampleMedium], name: str
) -> tuple[tuple[TrainingTurn, ...], list[SampleMedium]]:
    """Turns with their places, and the media in the order of the places."""
    questions, answers = [text for _, text in said[::2]], [text for _, text in said[1::2]]
    marks = [MARK.findall(question) for question in questions]
    if any(marks):
        order = _by_marks([kind for found in marks for kind in found], media, name)
    else:
        order, marks[0] = everything, [medium.kind for medium in everything]
    turns = tuple(
        TrainingTurn(MARK.sub("", question).strip(), answer, (SHOWN,) * len(found))
        for question, answer, found in zip(questions, answers, marks, strict=True)
    )
    return turns, order


def _by_marks(
    kinds: Sequence[SampleKind], media: dict[SampleKind, list[SampleMedium]], name: str
) -> list[SampleMedium]:
    for kind in _KINDS:
        marked, there = kinds.count(kind), len(media.get(kind, []))
        if marked != there:
            raise DataError(
                f"{name}: the questions hold <{kind}> {marked} times and the row names {there} of that kind. "
                "Write one mark for each medium, or none at all."
            )
    left = {kind: iter(files) for kind, files in media.items()}
    return [next(left[kind]) for kind in kinds]
