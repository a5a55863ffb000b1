"""Read the annotation files of published data sets, in the layout in which they are published."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from video_llama.datasets.question_rows import QuestionRow, correct_choice, media_path, question_rows
from video_llama.datasets.tables import json_rows, named_rows, read_json, table_rows, text_value
from video_llama.errors import DataError

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")

Reader = Callable[[Path, Path], Iterator[QuestionRow]]
"""(annotation file, folder of the media) -> rows."""


def read_layout(layout: str, data: Path, media_dir: Path | None = None) -> Iterator[QuestionRow]:
    """Yield the rows of an annotation file.

    Raises DataError for an unknown layout, a file that does not have it, and an id that occurs twice.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout is {layout!r}. Choose {', '.join(LAYOUTS)}.")
    seen: set[str] = set()
    for row in LAYOUTS[layout](data, media_dir or data.parent):
        if row.id in seen:
            raise DataError(f"{data}: the id {row.id!r} occurs twice. Correct the file.")
        seen.add(row.id)
        yield row


# --- MSVD-QA and MSRVTT-QA (Xu et al. 2017): {"id", "video_id", "question", "answer"}


def _xu_rows(data: Path, media: Callable[[str], str]) -> Iterator[QuestionRow]:
    for name, row in json_rows(data):
        question = text_value(row, "question", name)
        yield QuestionRow(
            text_value(row, "id", name),
            (media(text_value(row, "video_id", name)),),
            question,
            (text_value(row, "answer", name),),
            category=question.partition(" ")[0].lower(),
        )


def _msvd_qa(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    """Videos are vid{video_id}.avi, or have YouTube's names if youtube_mapping.txt is next to the annotations."""
    mapping = data.with_name("youtube_mapping.txt")
    names = {}
    if mapping.is_file():
        pairs = (line.split() for line in mapping.read_text(encoding="utf-8").splitlines() if line.strip())
        names = {number: name for name, number in pairs}
    return _xu_rows(data, lambda number: _video(media_dir, names.get(f"vid{number}", f"vid{number}"), ".avi"))


def _msrvtt_qa(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    return _xu_rows(data, lambda number: _video(media_dir, f"video{number}", ".mp4"))


def _video(folder: Path, name: str, ending: str | None = None) -> str:
    """Return the path of a video: with the published ending, or another that exists."""
    endings = ((ending,) if ending else ()) + VIDEO_ENDINGS
    paths = [folder / f"{name}{each}" for each in endings]
    return str(next((path for path in paths if path.exists()), paths[0]))


# --- Questions and answers in two files: ActivityNet-QA (Yu et al. 2019), and Video-ChatGPT's files of the other sets:
# *_q.json {"question_id", "video_name", "question"}, *_a.json {"question_id", "answer", "type"}

ACTIVITYNET_TYPES = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)


def _two_files(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    if not data.stem.endswith("_q"):
        raise DataError(f"{data} should be a file of questions such as test_q.json, with test_a.json next to it.")
    answers_path = data.with_name(f"{data.stem[:-1]}a{data.suffix}")
    answers = {text_value(row, "question_id", name): (name, row) for name, row in json_rows(answers_path)}
    for name, row in json_rows(data):
        row_id, video = text_value(row, "question_id", name), text_value(row, "video_name", name)
        if row_id not in answers:
            raise DataError(f"{name}: {answers_path} has no answer to the question {row_id!r}. Download it again.")
        answer_name, answer = answers[row_id]
        prefixed = _video(media_dir, f"v_{video}")
        path = prefixed if Path(prefixed).exists() else _video(media_dir, video)
        question = text_value(row, "question", name)
        accepted = (text_value(answer, "answer", answer_name),)
        yield QuestionRow(row_id, (path,), question, accepted, category=_type_name(answer.get("type")))


def _type_name(number: Any) -> str | None:
    if number is None:
        return None
    is_known = isinstance(number, int) and 0 <= number < len(ACTIVITYNET_TYPES)
    return ACTIVITYNET_TYPES[number] if is_known else str(number)


# --- TGIF-QA (Jang et al. 2017): tab-separated {Test}_{frameqa,count,action,transition}_question.csv

FRAMEQA_TYPES = ("object", "number", "color", "location")


def _tgif_qa(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    task = next((name for name in ("frameqa", "count", "action", "transition") if name in data.stem.lower()), None)
    for name, row in table_rows(data, "\t"):
        choices = tuple(text_value(row, f"a{number}", name) for number in range(1, 6)) if "a1" in row else ()
        answer = text_value(row, "answer", name)
        if choices:
            answer = correct_choice(int(answer) if answer.isdecimal() else answer, choices, name)
        category = task
        if task == "frameqa" and (kind := row.get("type") or "").isdecimal() and int(kind) < len(FRAMEQA_TYPES):
            category = FRAMEQA_TYPES[int(kind)]
        yield QuestionRow(
            f"{task or data.stem}-{name.rpartition(':')[2]}",
            (str(media_dir / f"{text_value(row, 'gif_name', name)}.gif"),),
            text_value(row, "question", name),
            (answer,),
            choices,
            category=category,
        )


# --- MUSIC-AVQA (Li et al. 2022): avqa-{split}.json, whose key for the answer is "anser"


def _music_avqa(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    for name, row in json_rows(data):
        if row.get("question_deleted"):
            continue
        values, kinds = (_python_list(row, key, name) for key in ("templ_values", "type"))
        words = text_value(row, "question_content", name).rstrip("?").split()
        question = " ".join(_filled(words, values, name))
        yield QuestionRow(
            text_value(row, "question_id", name),
            (_video(media_dir, text_value(row, "video_id", name)),),
            f"{question}?",
            (text_value(row, "anser" if "anser" in row else "answer", name),),
            category=" ".join(kinds),
        )


def _python_list(row: dict[str, Any], key: str, name: str) -> list[str]:
    """Return a list that is written as text: '["Audio", "Counting"]'."""
    value = row.get(key, "[]")
    try:
        value = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{name}: {key!r} is {value!r}, not a list. Download the file again.") from error
    if not isinstance(value, list):
        raise DataError(f"{name}: {key!r} is {value!r}, not a list. Download the file again.")
    return [str(each) for each in value]


def _filled(words: list[str], values: list[str], name: str) -> Iterator[str]:
    """Replace the words such as <Object> by the values, in order."""
    remaining = iter(values)
    for word in words:
        if word.startswith("<") and ">" in word:
            value = next(remaining, None)
            if value is None:
                raise DataError(f"{name}: templ_values has no value for {word}. Download the file again.")
            yield value + word[word.index(">") + 1 :]
        else:
            yield word


# --- AVSD (Alamri et al. 2019): {"dialogs": [{"image_id", "dialog": [{"question", "answer"}], "caption", "summary"}]}

UNDISCLOSED = "__UNDISCLOSED__"


def _avsd(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    """The last question of each dialogue, after the earlier questions and answers."""
    content = read_json(data)
    if not isinstance(content, dict) or not isinstance(content.get("dialogs"), list):
        raise DataError(f'{data} has no list "dialogs". Use an annotation file of AVSD.')
    for number, dialogue in enumerate(content["dialogs"]):
        name = f"{data}:{number}"
        turns = dialogue.get("dialog") if isinstance(dialogue, dict) else None
        if not isinstance(turns, list) or not turns:
            raise DataError(f"{name}: the row has no 'dialog'. Download the file again.")
        pairs = [(text_value(turn, "question", name), text_value(turn, "answer", name)) for turn in turns]
        *earlier, (question, answer) = pairs
        if answer == UNDISCLOSED:
            raise DataError(f"{name}: the answer is undisclosed. Use the labelled file (lbl_test_set4DSTC7-AVSD.json).")
        history = "".join(f"Question: {asked}\nAnswer: {answered}\n" for asked, answered in earlier)
        video = text_value(dialogue, "image_id", name)
        yield QuestionRow(
            f"{video}-{number}",
            (_video(media_dir, video),),
            f"{history}Question: {question}" if history else question,
            (answer,),
        )


# --- MVBench (Li et al. 2024): {"video", "question", "candidates", "answer", "start", "end"}, a file for each task


def _mvbench(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    for name, row in json_rows(data):
        choices = tuple(str(choice) for choice in row.get("candidates") or ())
        number = name.rpartition(":")[2]
        yield QuestionRow(
            f"{data.stem}-{number}",
            (media_path(media_dir, text_value(row, "video", name)),),
            text_value(row, "question", name),
            (correct_choice(row.get("answer"), choices, name),),
            choices,
            start=row.get("start"),
            end=row.get("end"),
            category=data.stem,
        )


# --- VideoChatGPT-bench (Maaz et al. 2023): {"video_name", "Q" (or "Q1", "Q2"), "A"}; judged, not compared


def _video_chatgpt(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    for name, row in json_rows(data):
        path, number = _video(media_dir, text_value(row, "video_name", name)), name.rpartition(":")[2]
        for key in [key for key in ("Q", "Q1", "Q2") if key in row]:
            question, answer = text_value(row, key, name), text_value(row, "A", name)
            yield QuestionRow(f"{data.stem}-{number}-{key}", (path,), question, (answer,), category=data.stem)


# --- Captions: WebVid's table, and MSRVTT's {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}


def _webvid_captions(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    for name, row in named_rows(data):
        video = text_value(row, "videoid", name)
        path = media_dir / text_value(row, "page_dir", name) / f"{video}.mp4"
        yield QuestionRow(video, (str(path),), captions=(text_value(row, "name", name),))


def _msrvtt_captions(data: Path, media_dir: Path) -> Iterator[QuestionRow]:
    """The videos of the split "test" if the file has one, else all."""
    content = read_json(data)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("videos", "sentences")):
        raise DataError(f'{data} has no lists "videos" and "sentences". Use an annotation file of MSRVTT.')
    captions: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        captions.setdefault(text_value(sentence, "video_id", str(data)), []).append(
            text_value(sentence, "caption", str(data))
        )
    videos = content["videos"]
    test = [video for video in videos if video.get("split") == "test"]
    for video in test or videos:
        name = text_value(video, "video_id", str(data))
        if name not in captions:
            raise DataError(f"{data}: the video {name} has no sentence. Download the file again.")
        yield QuestionRow(name, (_video(media_dir, name),), captions=tuple(captions[name]))


LAYOUTS: dict[str, Reader] = {
    "rows": question_rows,
    "msvd-qa": _msvd_qa,
    "msrvtt-qa": _msrvtt_qa,
    "activitynet-qa": _two_files,
    "tgif-qa": _tgif_qa,
    "music-avqa": _music_avqa,
    "avsd": _avsd,
    "mvbench": _mvbench,
    "videochatgpt": _video_chatgpt,
    "webvid-captions": _webvid_captions,
    "msrvtt-captions": _msrvtt_captions,
}
"""Name of each layout -> its reader."""
