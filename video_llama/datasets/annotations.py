"""Annotation files in, Samples out: one format for each layout, in ``READERS``.

Formats: WebVid's tables, LLaVA-CC3M's and MiniGPT-4's captions (``filter_cap.json`` or ``chat.json``), LLaVA's
``conversations`` and VideoChat's ``QA`` rows, people's own rows (``own_rows.py``), and tar shards (``shards.py``).
Sources: the reference's datasets/datasets/{webvid,cc_sbu,llava_instruct,video_instruct}_dataset.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.conversation import TrainingTurn, image_turns, video_turns
from video_llama.datasets.config import BuildInfo
from video_llama.datasets.own_rows import own_sample
from video_llama.datasets.sample import SHOWN, Sample
from video_llama.datasets.tables import Named, given, json_rows, read_json, value
from video_llama.datasets.webdataset import shard_rows, shard_sample
from video_llama.errors import DataError

COCO_PREFIX = "COCO_train2014_"
"""LLaVA names its pictures "000000033471.jpg"; in COCO's own folder they have this in front."""


@dataclass(frozen=True)
class Format:
    """``rows`` lists a data set's rows with their names; ``sample`` turns one into a Sample, or raises DataError."""

    rows: Callable[[BuildInfo, str], Iterator[Named]]
    sample: Callable[[BuildInfo, str, Any], Sample]


def read_samples(
    format_name: str, info: BuildInfo, *, where: str, excluded: frozenset[str] = frozenset()
) -> list[Sample]:
    """Every sample of a data set. ``where`` names it in errors ("datasets.webvid"); ``excluded`` are ids to leave out.

    Raises DataError for an unknown format, a path that is not given or not there, and a row that cannot be read.
    """
    chosen = format_of(format_name, where)
    samples = [chosen.sample(info, name, row) for name, row in chosen.rows(info, where) if name not in excluded]
    if not samples:
        raise DataError(f"{where}: no rows. Check build_info: {info.anno_dir or info.storage or info.shards}.")
    return samples


def format_of(format_name: str, where: str) -> Format:
    """The format by name. Raises DataError, with the names that there are, for another."""
    if format_name not in READERS:
        raise DataError(f"{where}: no reader for {format_name!r}. Set format to one of {', '.join(READERS)}.")
    return READERS[format_name]


def excluded_ids(report: Path | None) -> frozenset[str]:
    """The ids of the samples that a report of ``validate-data`` calls unusable. Raises DataError if it is no report."""
    if report is None:
        return frozenset()
    try:
        rows = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        return frozenset(row["sample"] for row in rows if row["level"] == "error")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{report} is no report of validate-data ({error}). Write it again.") from error


# --- WebVid: columns videoid, name, page_dir of every .csv and .tsv in anno_dir, or of that file


def _webvid_rows(info: BuildInfo, where: str) -> Iterator[Named]:
    anno = given(info, where, "anno_dir")
    given(info, where, "videos_dir")
    files = sorted(path for path in anno.iterdir() if path.suffix in (".csv", ".tsv")) if anno.is_dir() else [anno]
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            for number, row in enumerate(rows, start=2):
                yield f"{path}:{number}", row


def _webvid_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    clip = _folder(info) / value(row, "page_dir", name) / f"{value(row, 'videoid', name)}.mp4"
    return Sample(name, clip, "video", caption=value(row, "name", name))


# --- picture captions: filter_cap.json {"annotations": [{"image_id", "caption"}]} beside image/{image_id}.jpg, or,
# where that is not there, LLaVA-CC3M's own chat.json, whose answers are the captions


def _picture_rows(info: BuildInfo, where: str) -> Iterator[Named]:
    folder = given(info, where, "storage")
    path, chat = folder / "filter_cap.json", folder / "chat.json"
    if chat.is_file() and not path.is_file():
        yield from json_rows(chat)
        return
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f'{path}: has no list "annotations". Give the file that comes with the pictures.')
    for number, row in enumerate(content["annotations"]):
        yield f"{path}:{number}", row


def _picture_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    assert info.storage is not None
    if isinstance(row, dict) and "conversations" in row:
        turns = _turns(image_turns, row, "conversations", name)
        picture = _existing([info.storage / folder / value(row, "image", name) for folder in ("image", "images", ".")])
        return Sample(name, picture, "image", caption=turns[0].answer, uses_caption_rules=False)
    picture = info.storage / "image" / f"{value(row, 'image_id', name)}.jpg"
    return Sample(name, picture, "image", caption=value(row, "caption", name), uses_caption_rules=False)


# --- LLaVA and VideoChat


def _instruction_rows(info: BuildInfo, where: str) -> Iterator[Named]:
    path = given(info, where, "anno_dir")
    given(info, where, "videos_dir")
    return json_rows(path)


def _llava_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    """{"image", "conversations": [{"from": "human" | "gpt", "value"}]}; pictures by LLaVA's or by COCO's name."""
    file = value(row, "image", name)
    turns = _turns(image_turns, row, "conversations", name)
    return Sample(name, _existing([_folder(info) / f"{COCO_PREFIX}{file}", _folder(info) / file]), "image", turns=turns)


def _videochat_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    """{"video", "QA": [{"i", "q", "a"}]}, and ours: "video_words" or "audio_words" beside them."""
    return Sample(
        name,
        _folder(info) / value(row, "video", name),
        "video",
        turns=_turns(video_turns, row, "QA", name),
        video_words=row.get("video_words"),
        audio_words=row.get("audio_words"),
    )


# --- people's own: a JSON list or a .jsonl file; paths start from videos_dir, or from the file's own folder


def _own_rows(info: BuildInfo, where: str) -> Iterator[Named]:
    if info.videos_dir is not None:
        given(info, where, "videos_dir")
    return json_rows(given(info, where, "anno_dir"))


def _own_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    assert info.anno_dir is not None
    return own_sample(row, name, info.videos_dir or info.anno_dir.parent)


def _shard_rows(info: BuildInfo, where: str) -> Iterator[Named]:
    if not info.shards:
        raise DataError(f"{where}.build_info.shards is not given. Say where the tar files lie.")
    return shard_rows(info.shards, info.index_dir)


def _shard_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    return shard_sample(row, name)


_PICTURES = Format(_picture_rows, _picture_sample)
_VIDEOCHAT = Format(_instruction_rows, _videochat_sample)
_OWN = Format(_own_rows, _own_sample)

READERS: dict[str, Format] = {
    "webvid": Format(_webvid_rows, _webvid_sample),
    "cc_sbu_align": _PICTURES,
    "llava_pretrain": _PICTURES,
    "llava_instruct": Format(_instruction_rows, _llava_sample),
    "webvid_instruct": _VIDEOCHAT,
    "webvid_instruct_zh": _VIDEOCHAT,
    "video_instruct": _VIDEOCHAT,
    "conversations": _OWN,
    "messages": _OWN,
    "captions": _OWN,
    "webdataset": Format(_shard_rows, _shard_sample),
}


def _folder(info: BuildInfo) -> Path:
    assert info.videos_dir is not None  # the format's rows() has asked for it
    return info.videos_dir


def _existing(paths: list[Path]) -> Path:
    """The first that is there, or the last, which is then reported as missing."""
    return next((path for path in paths if path.exists()), paths[-1])


def _turns(convert: Callable[..., list[TrainingTurn]], row: Any, key: str, name: str) -> tuple[TrainingTurn, ...]:
    if not row.get(key):
        raise DataError(f"{name}: the row has no {key!r}. Repair or drop it.")
    try:
        return tuple(convert(row[key], SHOWN))
    except (DataError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{name}: {error}") from error
