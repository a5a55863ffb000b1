"""Formats for your own data: captions, ``conversations`` and ``messages`` with one or several media, and errors."""

from pathlib import Path
from typing import Any

import pytest

from video_llama.datasets.own_rows import own_sample
from video_llama.errors import DataError


def human(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)]


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]


def read(row: dict[str, Any]) -> Any:
    return own_sample(row, "own.json:0", Path("/data"))


def test_both_layouts_give_the_same_sample() -> None:
    texts = ("<video>\nWhat happens?", "A dog runs.", "Where?", "On grass.")
    llava = read({"video": "a.mp4", "conversations": human(*texts)})
    assert llava == read({"videos": ["a.mp4"], "messages": messages(*texts)})
    assert (llava.path, llava.kind, llava.more_media) == (Path("/data/a.mp4"), "video", ())
    assert [(turn.question, turn.answer, len(turn.media)) for turn in llava.turns] == [
        ("What happens?", "A dog runs.", 1),
        ("Where?", "On grass.", 0),
    ]


def test_placeholders_set_the_position_of_each_medium() -> None:
    row = {
        "images": ["1.png", "2.png"],
        "audio": "/elsewhere/rain.wav",
        "system": "Be brief.",
        "messages": messages("<image> and <audio>?", "Yes.", "And <image>?", "No."),
    }
    sample = read(row)
    assert [(str(medium.path), medium.kind) for medium in sample.media] == [
        ("/data/1.png", "image"),
        ("/elsewhere/rain.wav", "audio"),
        ("/data/2.png", "image"),
    ]
    assert [len(turn.media) for turn in sample.turns] == [2, 1]
    assert sample.system == "Be brief."


def test_without_placeholders_all_media_precede_the_first_question() -> None:
    row = {"video": ["a.mp4", "b.mp4"], "conversations": human("Compare.", "The same.", "Sure?", "Yes.")}
    assert [len(turn.media) for turn in read(row).turns] == [2, 0]


def test_a_system_message_is_the_system_text() -> None:
    said = [{"role": "system", "content": "Be kind."}, *messages("What?", "A cat.")]
    assert read({"images": "1.png", "messages": said}).system == "Be kind."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": human("Hi", "Hello")}, "no image, video or audio"),
        ({"video": "a.mp4"}, "no 'conversations', 'messages' or 'caption'"),
        ({"video": "a.mp4", "conversations": human("Hi")}, "do not alternate"),
        ({"video": "a.mp4", "conversations": [{"from": "bird", "value": "tweet"}]}, "is not a message"),
        ({"video": "a.mp4", "messages": [{"role": "user", "content": ["?"]}]}, "is not a message"),
        ({"video": "a.mp4", "conversations": human("<video><video>?", "Yes.")}, "<video> 2 times, but the row has 1"),
        ({"video": "a.mp4", "audio": "b.wav", "messages": messages("<video>?", "Yes.")}, "<audio> 0 times"),
        ({"video": ["a.mp4", "b.mp4"], "caption": "Two clips."}, "exactly one medium, not 2"),
        ({"video": [7], "caption": "A clip."}, "'video' is 7"),
        ({"video": 7, "caption": "A clip."}, "'video' is 7"),
        ({"video": "a.mp4", "caption": ""}, "'caption' is ''"),
        ({"video": "a.mp4", "caption": {"en": "A clip."}}, "'caption' is {'en'"),
        ({"video": "a.mp4", "messages": "What?"}, "no 'conversations', 'messages' or 'caption'"),
        ({"video": "a.mp4", "messages": [{"role": ["user"], "content": "?"}]}, "is not a message"),
        ({"video": "a.mp4", "system": 7, "messages": messages("?", "Yes.")}, "'system' is 7"),
    ],
)
def test_errors_name_the_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"own.json:0: .*{message}"):
        read(row)
