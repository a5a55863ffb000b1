"""Read annotation files into Samples. ``READERS`` maps the name of each format to its reader.

Formats: WebVid's tables, the captions of LLaVA-CC3M and MiniGPT-4 (``filter_cap.json`` or ``chat.json``), LLaVA's
``conversations`` and VideoChat's ``QA`` rows, the formats for your own data (``own_rows.py``), and WebDataset tar
shards (``webdataset.py``).
Source: the reference's datasets/datasets/{webvid,cc_sbu,llava_instruct,video_instruct}_dataset.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from video_llama.conversation import TrainingTurn, image_turns, video_turns
from video_llama.datasets.config import BuildInfo
from video_llama.datasets.own_rows import own_sample
from video_llama.datasets.sample import MEDIUM_PLACE, Sample
from video_llama.datasets.tables import NamedRow, json_rows, read_json, table_rows, text_value
from video_llama.datasets.webdataset import shard_rows, shard_sample
from video_llama.errors import DataError
from video_llama.files import parse_json, read_text

COCO_PREFIX = "COCO_train2014_"
"""Prefix of the file names in COCO's own folder; LLaVA's annotations omit it ("000000033471.jpg")."""


@dataclass(frozen=True)
class AnnotationFormat:
    """``rows`` yields the named rows of a data set; ``sample`` converts one row to a Sample or raises DataError."""

    rows: Callable[[BuildInfo, str], Iterator[NamedRow]]
    sample: Callable[[BuildInfo, str, Any], Sample]


def read_samples(
    format_name: str, info: BuildInfo, *, where: str, excluded: frozenset[str] = frozenset()
) -> list[Sample]:
    """Read all samples of a data set except those whose ids are ``excluded``.

    ``where`` names the data set in errors ("datasets.webvid"). Raises DataError for an unknown format, a path that is
    not set or does not exist, an invalid row, and a data set without rows.
    """
    chosen = format_of(format_name, where)
    samples = [chosen.sample(info, name, row) for name, row in chosen.rows(info, where) if name not in excluded]
    if not samples:
        raise DataError(f"{where}: no rows. Check build_info: {info.anno_dir or info.storage or info.shards}.")
    return samples


def format_of(format_name: str, where: str) -> AnnotationFormat:
    """Return the format of this name. Raises DataError, with the valid names, for an unknown one."""
    if format_name not in READERS:
        raise DataError(f"{where}: unknown format {format_name!r}. Set format to one of {', '.join(READERS)}.")
    return READERS[format_name]


def excluded_ids(report: Path | None) -> frozenset[str]:
    """Return the ids of the samples with errors in a ``validate-data`` report. Raises DataError for other files."""
    if report is None:
        return frozenset()
    try:
        # JSON does not escape U+2028 and similar, at which splitlines would split.
        rows = [parse_json(line) for line in read_text(report).split("\n") if line]
        return frozenset(row["sample"] for row in rows if row["level"] == "error")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{report} is not a validate-data report ({error}). Run validate-data again.") from error


def _required_path(info: BuildInfo, where: str, key: Literal["anno_dir", "videos_dir", "storage"]) -> Path:
    """Return a path of ``build_info``. Raises DataError if it is not set or does not exist."""
    path: Path | None = getattr(info, key)
    if path is None:
        raise DataError(f"{where}.build_info.{key} is not set. Give the path of the data set.")
    if not path.exists():
        remedy = info.how_to_get or "Correct the path, or download the data first."
        raise DataError(f"{where}.build_info.{key}: {path} does not exist. {remedy}")
    return path


# --- WebVid: columns videoid, name, page_dir of every .csv and .tsv file in anno_dir, or of the file anno_dir


def _webvid_rows(info: BuildInfo, where: str) -> Iterator[NamedRow]:
    anno = _required_path(info, where, "anno_dir")
    _required_path(info, where, "videos_dir")
    files = sorted(path for path in anno.iterdir() if path.suffix in (".csv", ".tsv")) if anno.is_dir() else [anno]
    for path in files:
        yield from table_rows(path)


def _webvid_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    clip = _videos_dir(info) / text_value(row, "page_dir", name) / f"{text_value(row, 'videoid', name)}.mp4"
    return Sample(name, clip, "video", caption=text_value(row, "name", name))


# --- Image captions: filter_cap.json {"annotations": [{"image_id", "caption"}]} with images image/{image_id}.jpg. If
# that file is missing: LLaVA-CC3M's own chat.json, whose answers are the captions.


def _image_rows(info: BuildInfo, where: str) -> Iterator[NamedRow]:
    folder = _required_path(info, where, "storage")
    path, chat = folder / "filter_cap.json", folder / "chat.json"
    if chat.is_file() and not path.is_file():
        yield from json_rows(chat)
        return
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f'{path} has no list "annotations". Use the annotation file published with the images.')
    for number, row in enumerate(content["annotations"]):
        yield f"{path}:{number}", row


def _image_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    assert info.storage is not None
    if isinstance(row, dict) and "conversations" in row:
        turns = _turns(image_turns, row, "conversations", name)
        file = text_value(row, "image", name)
        image = _first_existing([info.storage / folder / file for folder in ("image", "images", ".")])
        return Sample(name, image, "image", caption=turns[0].answer, uses_caption_rules=False)
    image = info.storage / "image" / f"{text_value(row, 'image_id', name)}.jpg"
    return Sample(name, image, "image", caption=text_value(row, "caption", name), uses_caption_rules=False)


# --- LLaVA and VideoChat


def _instruction_rows(info: BuildInfo, where: str) -> Iterator[NamedRow]:
    path = _required_path(info, where, "anno_dir")
    _required_path(info, where, "videos_dir")
    return json_rows(path)


def _llava_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    """Convert {"image", "conversations": [{"from": "human" | "gpt", "value"}]}; images by LLaVA's or COCO's name."""
    file, folder = text_value(row, "image", name), _videos_dir(info)
    turns = _turns(image_turns, row, "conversations", name)
    return Sample(name, _first_existing([folder / f"{COCO_PREFIX}{file}", folder / file]), "image", turns=turns)


def _videochat_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    """Convert {"video", "QA": [{"i", "q", "a"}]}, with our optional keys "video_words" and "audio_words"."""
    return Sample(
        name,
        _videos_dir(info) / text_value(row, "video", name),
        "video",
        turns=_turns(video_turns, row, "QA", name),
        video_words=row.get("video_words"),
        audio_words=row.get("audio_words"),
    )


# --- Your own data: a JSON list or a .jsonl file; paths are relative to videos_dir or to the folder of the file


def _own_rows(info: BuildInfo, where: str) -> Iterator[NamedRow]:
    if info.videos_dir is not None:
        _required_path(info, where, "videos_dir")
    return json_rows(_required_path(info, where, "anno_dir"))


def _own_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    assert info.anno_dir is not None
    return own_sample(row, name, info.videos_dir or info.anno_dir.parent)


def _shard_rows(info: BuildInfo, where: str) -> Iterator[NamedRow]:
    if not info.shards:
        raise DataError(f"{where}.build_info.shards is not set. Give the paths of the tar files.")
    return shard_rows(info.shards, info.index_dir)


def _shard_sample(info: BuildInfo, name: str, row: Any) -> Sample:
    return shard_sample(row, name)


_IMAGES = AnnotationFormat(_image_rows, _image_sample)
_VIDEOCHAT = AnnotationFormat(_instruction_rows, _videochat_sample)
_OWN = AnnotationFormat(_own_rows, _own_sample)

READERS: dict[str, AnnotationFormat] = {
    "webvid": AnnotationFormat(_webvid_rows, _webvid_sample),
    "cc_sbu_align": _IMAGES,
    "llava_pretrain": _IMAGES,
    "llava_instruct": AnnotationFormat(_instruction_rows, _llava_sample),
    "webvid_instruct": _VIDEOCHAT,
    "webvid_instruct_zh": _VIDEOCHAT,
    "video_instruct": _VIDEOCHAT,
    "conversations": _OWN,
    "messages": _OWN,
    "captions": _OWN,
    "webdataset": AnnotationFormat(_shard_rows, _shard_sample),
}


def _videos_dir(info: BuildInfo) -> Path:
    assert info.videos_dir is not None  # checked by the format's rows()
    return info.videos_dir


def _first_existing(paths: list[Path]) -> Path:
    """Return the first path that exists, else the last one, which is then reported as missing."""
    return next((path for path in paths if path.exists()), paths[-1])


def _turns(convert: Callable[..., list[TrainingTurn]], row: Any, key: str, name: str) -> tuple[TrainingTurn, ...]:
    if not row.get(key):
        raise DataError(f"{name}: the row has no {key!r}. Correct or remove it.")
    try:
        return tuple(convert(row[key], MEDIUM_PLACE))
    except (DataError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{name}: {error}") from error
