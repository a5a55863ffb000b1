r"""Formats for your own data: captions, LLaVA's ``conversations``, and ``messages``.

```
{"audio": "rain.wav", "caption": "Rain on a roof."}
{"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", ...}]}
{"videos": ["a.mp4"], "messages": [{"role": "user", "content": "<video>What happens?"}, {"role": "assistant", ...}]}
```
The keys ``image``, ``video`` and ``audio`` (or ``images``, ``videos``, ``audios``) are a path or a list of paths. The
placeholders ``<image>``, ``<video>`` and ``<audio>`` in the questions mark the position of each medium. Without
placeholders, all media are placed before the first question. The layouts are those of LLaVA's data and of the data
guides of LLaMA-Factory and ms-swift.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from video_llama.conversation import TrainingTurn
from video_llama.datasets.sample import MEDIUM_PLACE, Sample, SampleKind, SampleMedium
from video_llama.errors import DataError

MEDIUM_PLACEHOLDER = re.compile(r"<(image|video|audio)>")
_KINDS: tuple[SampleKind, ...] = ("image", "video", "audio")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
RoleAndText = tuple[str, str]
"""A message: its role ("user" or "assistant") and its text."""


def own_sample(row: Any, name: str, folder: Path) -> Sample:
    """Convert one row. Relative paths are relative to ``folder``.

    Raises DataError for a row without media or text, for roles that do not alternate, and for placeholders that do not
    match the media.
    """
    if not isinstance(row, dict):
        raise DataError(f"{name}: the row is a {type(row).__name__}, not an object. Correct or remove it.")
    media = {kind: [SampleMedium(name, folder / path, kind) for path in _paths(row, kind, name)] for kind in _KINDS}
    if not any(media.values()):
        raise DataError(f"{name}: the row has no image, video or audio. Add one of these keys, or remove the row.")
    return conversation_sample(row, name, media)


def conversation_sample(row: dict[str, Any], name: str, media: dict[SampleKind, list[SampleMedium]]) -> Sample:
    """Convert the caption or the turns of a row with the given media. Raises DataError like :func:`own_sample`."""
    all_media = [medium for kind in _KINDS for medium in media.get(kind, [])]
    if "caption" in row:
        if not row["caption"] or not isinstance(row["caption"], str):
            raise DataError(f"{name}: 'caption' is {row['caption']!r}, not a text. Correct or remove the row.")
        if len(all_media) != 1:
            raise DataError(
                f"{name}: a caption needs exactly one medium, not {len(all_media)}. Correct or remove the row."
            )
        return Sample(name, all_media[0].path, all_media[0].kind, caption=row["caption"])
    system, messages = _messages(row, name)
    turns, order = _turns(messages, media, all_media, name)
    first, *more = order
    return Sample(name, first.path, first.kind, turns=turns, more_media=tuple(more), system=system)


def _paths(row: dict[str, Any], kind: SampleKind, name: str) -> Iterator[str]:
    for key in (kind, f"{kind}s"):
        given = row.get(key) or []
        for path in given if isinstance(given, list) else [given]:
            if not isinstance(path, str) or not path:
                raise DataError(f"{name}: {key!r} is {path!r}. Give a path or a list of paths.")
            yield path


def _messages(row: dict[str, Any], name: str) -> tuple[str | None, list[RoleAndText]]:
    """Return the system text and the messages of a row in either layout."""
    keys = ("from", "value") if "conversations" in row else ("role", "content")
    entries = row.get("conversations") or row.get("messages")
    if not entries or not isinstance(entries, list):
        raise DataError(f"{name}: the row has no 'conversations', 'messages' or 'caption'. Correct or remove it.")
    messages = [_message(entry, keys, name) for entry in entries]
    system = row.get("system")
    if messages[0][0] == "system":
        system = messages.pop(0)[1]
    if system is not None and not isinstance(system, str):
        raise DataError(f"{name}: 'system' is {system!r}, not a text. Correct or remove it.")
    if not messages or [role for role, _ in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise DataError(f"{name}: the roles do not alternate between user and assistant. Correct or remove the row.")
    return system, messages


def _message(entry: Any, keys: tuple[str, str], name: str) -> RoleAndText:
    role, text = (entry.get(key) if isinstance(entry, dict) else None for key in keys)
    if not isinstance(role, str) or role not in _ROLES or not isinstance(text, str):
        raise DataError(
            f"{name}: {entry!r} is not a message. It needs {keys[0]!r} ({', '.join(_ROLES)}) and {keys[1]!r} (a text)."
        )
    return _ROLES[role], text


def _turns(
    messages: Sequence[RoleAndText],
    media: dict[SampleKind, list[SampleMedium]],
    all_media: list[SampleMedium],
    name: str,
) -> tuple[tuple[TrainingTurn, ...], list[SampleMedium]]:
    """Return the turns, with a place for each medium, and the media in the order of their places."""
    questions, answers = [text for _, text in messages[::2]], [text for _, text in messages[1::2]]
    placeholders = [MEDIUM_PLACEHOLDER.findall(question) for question in questions]
    if any(placeholders):
        order = _in_placeholder_order([kind for found in placeholders for kind in found], media, name)
    else:
        order, placeholders[0] = all_media, [medium.kind for medium in all_media]
    turns = tuple(
        TrainingTurn(MEDIUM_PLACEHOLDER.sub("", question).strip(), answer, (MEDIUM_PLACE,) * len(found))
        for question, answer, found in zip(questions, answers, placeholders, strict=True)
    )
    return turns, order


def _in_placeholder_order(
    kinds: Sequence[SampleKind], media: dict[SampleKind, list[SampleMedium]], name: str
) -> list[SampleMedium]:
    for kind in _KINDS:
        num_placeholders, num_media = kinds.count(kind), len(media.get(kind, []))
        if num_placeholders != num_media:
            raise DataError(
                f"{name}: the questions contain <{kind}> {num_placeholders} times, but the row has {num_media} of that "
                "kind. Write one placeholder per medium, or no placeholders at all."
            )
    left = {kind: iter(files) for kind, files in media.items()}
    return [next(left[kind]) for kind in kinds]
