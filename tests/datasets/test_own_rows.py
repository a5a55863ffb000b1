"""People's own rows: captions, ``conversations`` and ``messages`` with one or several media, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from video_llama.conversation import Slot, Tokenizer, media_message
from video_llama.datasets.annotations import read_samples
from video_llama.datasets.config import BuildInfo, DatasetConfig
from video_llama.datasets.own_rows import own_sample
from video_llama.datasets.rows import RowBuilder, TextRules
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


def test_marks_decide_where_each_medium_is_shown() -> None:
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


def test_without_marks_everything_comes_with_the_first_question() -> None:
    row = {"video": ["a.mp4", "b.mp4"], "conversations": human("Compare.", "The same.", "Sure?", "Yes.")}
    assert [len(turn.media) for turn in read(row).turns] == [2, 0]


def test_a_system_turn_is_the_system_text() -> None:
    said = [{"role": "system", "content": "Be kind."}, *messages("What?", "A cat.")]
    assert read({"images": "1.png", "messages": said}).system == "Be kind."


def test_captions_of_sounds_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"audio": "rain.wav", "caption": "Rain."}\n\n{"audio": "sea.wav", "caption": "The sea."}\n')
    samples = read_samples("captions", BuildInfo(anno_dir=path), where="datasets.own")
    assert [(sample.id, sample.path, sample.kind, sample.caption) for sample in samples] == [
        (f"{path}:1", tmp_path / "rain.wav", "audio", "Rain."),
        (f"{path}:3", tmp_path / "sea.wav", "audio", "The sea."),
    ]
    path.write_text('{"audio": "rain.wav"\n')
    with pytest.raises(DataError, match="one JSON object a line"):
        read_samples("captions", BuildInfo(anno_dir=path), where="datasets.own")


def test_rows_that_a_report_calls_unusable_are_left_out(tmp_path: Path) -> None:
    path, report = tmp_path / "own.json", tmp_path / "report.jsonl"
    path.write_text(json.dumps([{"audio": f"{index}.wav", "caption": "Rain."} for index in range(3)]))
    rows = [{"sample": f"{path}:0", "level": "warning"}, {"sample": f"{path}:1", "level": "error"}]
    report.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from video_llama.datasets.annotations import excluded_ids

    samples = read_samples("captions", BuildInfo(anno_dir=path), where="x", excluded=excluded_ids(report))
    assert [sample.id for sample in samples] == [f"{path}:0", f"{path}:2"]
    report.write_text("no report")
    with pytest.raises(DataError, match="is no report of validate-data"):
        excluded_ids(report)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": human("Hi", "Hello")}, "no image, video or audio"),
        ({"video": "a.mp4"}, "no 'conversations', 'messages' or 'caption'"),
        ({"video": "a.mp4", "conversations": human("Hi")}, "do not alternate"),
        ({"video": "a.mp4", "conversations": [{"from": "bird", "value": "tweet"}]}, "is no turn"),
        ({"video": "a.mp4", "messages": [{"role": "user", "content": ["?"]}]}, "is no turn"),
        ({"video": "a.mp4", "conversations": human("<video><video>?", "Yes.")}, "<video> 2 times and the row names 1"),
        ({"video": "a.mp4", "audio": "b.wav", "messages": messages("<video>?", "Yes.")}, "<audio> 0 times"),
        ({"video": ["a.mp4", "b.mp4"], "caption": "Two clips."}, "exactly one medium, not 2"),
        ({"video": [7], "caption": "A clip."}, "'video' holds 7"),
        ({"video": 7, "caption": "A clip."}, "'video' holds 7"),
        ({"video": "a.mp4", "caption": ""}, "'caption' holds ''"),
        ({"video": "a.mp4", "caption": {"en": "A clip."}}, "'caption' holds {'en'"),
        ({"video": "a.mp4", "messages": "What?"}, "no 'conversations', 'messages' or 'caption'"),
        ({"video": "a.mp4", "messages": [{"role": ["user"], "content": "?"}]}, "is no turn"),
        ({"video": "a.mp4", "system": 7, "messages": messages("?", "Yes.")}, "'system' holds 7"),
    ],
)
def test_rows_that_cannot_be_used_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"own.json:0: .*{message}"):
        read(row)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"video": "a.mp4", "caption": "A clip."}) + "\n{oops\n")
    with pytest.raises(DataError, match=r"own.jsonl:2 cannot be read as one JSON object a line"):
        read_samples("captions", BuildInfo(anno_dir=path), where="x")


def builder(rules: TextRules, branch: str = "vision", **config: object) -> RowBuilder:
    return RowBuilder(rules, DatasetConfig.model_validate(config), branch)  # type: ignore[arg-type]


def test_a_video_with_its_sound_is_what_serving_renders(rules: TextRules, tokenizer: Tokenizer) -> None:
    sample = read({"video": "a.mp4", "audio": "a.mp4", "conversations": human("What?", "A dog.")})
    example = builder(rules).build(sample, ["The video contains 8 frames. ", ""])
    message = media_message(video=Slot("video"), audio=Slot("audio"))
    words = [part for part in message.content if isinstance(part, str)]
    assert all(part in example.text for part in words)
    assert "The video contains" not in example.text  # as when it is served
    assert example.input_ids.count(tokenizer.audio_token_id) == 3
    assert example.input_ids.count(tokenizer.video_token_id) == 5
    assert example.input_ids.index(tokenizer.audio_token_id) < example.input_ids.index(tokenizer.video_token_id)


def test_several_pictures_and_the_rows_own_system_text(rules: TextRules, tokenizer: Tokenizer) -> None:
    row = {"images": ["1.png", "2.png"], "system": "Be brief.", "messages": messages("<image><image> Same?", "No.")}
    example = builder(rules).build(read(row), ["", ""])
    assert (
        example.text
        == "Be brief.###Human: <Image><ImageHere></Image>  <Image><ImageHere></Image>  Same?###Assistant: No.###"
    )
    assert [span.length for span in example.spans] == [5, 5]


def test_a_row_that_shows_its_branch_nothing_is_refused(rules: TextRules) -> None:
    sound = read({"audio": "a.wav", "caption": "Rain."})
    assert builder(rules, "audio").build(sound, "").text == "<ImageHere>rain###"
    with pytest.raises(DataError, match=r"own.json:0: the row shows the vision branch nothing"):
        builder(rules).build(sound, "")
    asked = read({"audio": "a.wav", "conversations": human("What?", "Rain.")})
    with pytest.raises(DataError, match="neither sound nor several media"):
        builder(rules, "audio", labels="reference").build(asked, "")
