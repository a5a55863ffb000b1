"""Annotation files in, Samples out: one reader for each format, in ``READERS``.

Formats: WebVid's tables, LLaVA-CC3M's and MiniGPT-4's ``filter_cap.json``, LLaVA's ``conversations`` and VideoChat's
``QA`` rows. Sources: the reference's datasets/datasets/{webvid,cc_sbu,llava_instruct,video_instruct}_dataset.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_llama.conversation import Slot, Turn, image_turns, media_message, video_turns
from video_llama.datasets.config import BuildInfo
from video_llama.errors import DataError

COCO_PREFIX = "COCO_train2014_"
"""LLaVA names its pictures "000000033471.jpg"; in COCO's own folder they have this in front."""

_SHOWN = media_message(image=Slot("video"))
"""Marks the turn that shows the medium; the row's builder puts the branch's own message in its place."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A medium with a caption, or with turns of which one shows it.

    ``id`` names the annotation for error messages ("file.json:17"). ``video_words`` or ``audio_words`` (ours) tell the
    OTHER medium of the audio-and-video sentence in words.
    """

    id: str
    path: Path
    kind: Literal["video", "image"]
    caption: str = ""
    turns: tuple[Turn, ...] = ()
    video_words: str | None = None
    audio_words: str | None = None
    uses_caption_rules: bool = True

    @property
    def text_length(self) -> int:
        """Characters of the text: a measure of the row's length that costs nothing."""
        return len(self.caption) + sum(len(turn.question) + len(turn.answer) for turn in self.turns)


def read_samples(format_name: str, info: BuildInfo, *, where: str) -> list[Sample]:
    """Every sample of a data set. ``where`` names it in errors ("datasets.webvid").

    Raises DataError for an unknown format, a path that is not given or not there, and a row that cannot be read.
    """
    if format_name not in READERS:
        raise DataError(f"{where}: no reader for {format_name!r}. Set format to one of {', '.join(READERS)}.")
    samples = list(READERS[format_name](info, where))
    if not samples:
        raise DataError(f"{where}: no rows. Check build_info: {info.anno_dir or info.storage}.")
    return samples


def read_webvid(info: BuildInfo, where: str) -> Iterator[Sample]:
    """Rows videoid, name, page_dir of every .csv and .tsv in ``anno_dir``, or of that file."""
    anno, videos = _given(info.anno_dir, where, "anno_dir"), _given(info.videos_dir, where, "videos_dir")
    files = sorted(path for path in anno.iterdir() if path.suffix in (".csv", ".tsv")) if anno.is_dir() else [anno]
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            for number, row in enumerate(rows, start=2):
                name = f"{path}:{number}"
                clip = videos / _value(row, "page_dir", name) / f"{_value(row, 'videoid', name)}.mp4"
                yield Sample(name, clip, "video", caption=_value(row, "name", name))


def read_image_captions(info: BuildInfo, where: str) -> Iterator[Sample]:
    """``filter_cap.json`` {"annotations": [{"image_id", "caption"}]} beside ``image/{image_id}.jpg``."""
    folder = _given(info.storage, where, "storage")
    path = folder / "filter_cap.json"
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f'{path}: has no list "annotations". Give the file that comes with the pictures.')
    for number, row in enumerate(content["annotations"]):
        name = f"{path}:{number}"
        picture = folder / "image" / f"{_value(row, 'image_id', name)}.jpg"
        yield Sample(name, picture, "image", caption=_value(row, "caption", name), uses_caption_rules=False)


def read_llava(info: BuildInfo, where: str) -> Iterator[Sample]:
    """Rows {"image", "conversations": [{"from": "human" | "gpt", "value"}]}; pictures by LLaVA's or by COCO's name."""
    path, pictures = _given(info.anno_dir, where, "anno_dir"), _given(info.videos_dir, where, "videos_dir")
    for number, row in enumerate(_rows(path)):
        name = f"{path}:{number}"
        file = _value(row, "image", name)
        picture = pictures / f"{COCO_PREFIX}{file}"
        turns = _turns(image_turns, row, "conversations", name)
        yield Sample(name, picture if picture.exists() else pictures / file, "image", turns=turns)


def read_videochat(info: BuildInfo, where: str) -> Iterator[Sample]:
    """Rows {"video", "QA": [{"i", "q", "a"}]}, and ours: "video_words" or "audio_words" beside them."""
    path, videos = _given(info.anno_dir, where, "anno_dir"), _given(info.videos_dir, where, "videos_dir")
    for number, row in enumerate(_rows(path)):
        name = f"{path}:{number}"
        yield Sample(
            name,
            videos / _value(row, "video", name),
            "video",
            turns=_turns(video_turns, row, "QA", name),
            video_words=row.get("video_words"),
            audio_words=row.get("audio_words"),
        )


READERS: dict[str, Callable[[BuildInfo, str], Iterator[Sample]]] = {
    "webvid": read_webvid,
    "cc_sbu_align": read_image_captions,
    "llava_pretrain": read_image_captions,
    "llava_instruct": read_llava,
    "webvid_instruct": read_videochat,
    "webvid_instruct_zh": read_videochat,
    "video_instruct": read_videochat,
}


def _given(path: Path | None, where: str, key: str) -> Path:
    if path is None:
        raise DataError(f"{where}.build_info.{key} is not given. Say where the data set lies.")
    if not path.exists():
        raise DataError(f"{where}.build_info.{key}: {path} does not exist. Correct the path, or fetch the data first.")
    return path


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Correct the path, or fetch the annotations first.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error


def _rows(path: Path) -> list[Any]:
    rows = _read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, not a list of rows. Is it another file?")
    return rows


def _value(row: Any, key: str, name: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if value is None or value == "":
        raise DataError(f"{name}: the row has no {key!r}. Repair or drop it.")
    return str(value)


def _turns(convert: Callable[..., list[Turn]], row: Any, key: str, name: str) -> tuple[Turn, ...]:
    if not row.get(key):
        raise DataError(f"{name}: the row has no {key!r}. Repair or drop it.")
    try:
        return tuple(convert(row[key], _SHOWN))
    except (DataError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{name}: {error}") from error
