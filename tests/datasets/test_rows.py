"""The text around a medium equals the prompt for inference, or the reference's training text."""

from pathlib import Path
from typing import Any

import pytest

from video_llama.conversation import Conversation, Slot, Tokenizer, TrainingTurn, encode_prompt, media_message
from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.datasets.own_rows import own_sample
from video_llama.datasets.rows import RowBuilder, TextRules
from video_llama.datasets.sample import Sample
from video_llama.errors import DataError

SENTENCE = "The video contains 2 frames sampled at 0.0, 0.5 seconds. "
PLACE = (media_message(image=Slot("video")),)


def sample(**changes: object) -> Sample:
    turns = (TrainingTurn("What happens?", "A red circle moves left.", PLACE), TrainingTurn("And then?", "It is blue."))
    return Sample(**{"id": "rows.json:4", "path": Path("1.mp4"), "kind": "video", "turns": turns, **changes})  # type: ignore[arg-type]


def builder(rules: TextRules, branch: Branch = "vision", **config: object) -> RowBuilder:
    return RowBuilder(rules, DatasetConfig.model_validate(config), branch)


def served_ids(tokenizer: Tokenizer, message: object) -> list[int]:
    conversation = Conversation()
    conversation.add_media(message)  # type: ignore[arg-type]
    conversation.ask("What happens?")
    conversation.answer("A red circle moves left.")
    conversation.ask("And then?")
    conversation.answer("It is blue.")
    return encode_prompt(tokenizer, conversation.prompt(), num_video_tokens=5, num_audio_tokens=3).input_ids


@pytest.mark.parametrize(
    ("branch", "words", "message"),
    [
        ("vision", {}, media_message(video=Slot("video"), sentence=SENTENCE)),
        ("vision", {"audio_words": "a low hum"}, media_message(video=Slot("video"), audio="a low hum")),
        ("audio", {}, media_message(audio=Slot("audio"))),
        ("audio", {"video_words": "a star"}, media_message(audio=Slot("audio"), video="a star")),
        ("vision", {"kind": "image"}, media_message(image=Slot("video"))),
    ],
)
def test_a_row_equals_the_prompt_for_inference(
    rules: TextRules, tokenizer: Tokenizer, branch: Branch, words: dict[str, str], message: object
) -> None:
    example = builder(rules, branch).build(sample(**words), SENTENCE)
    expected = served_ids(tokenizer, message)
    is_image = words.get("kind") == "image"
    # With an image, the Vicuna template starts with a system text: compare the text after it.
    assert example.input_ids[-len(expected) + 2 :] == expected[2:] if is_image else example.input_ids == expected
    labelled = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != -100]
    assert tokenizer.decode(labelled) == "A red circle moves left.### It is blue.###"


def test_captions_with_and_without_an_instruction(rules: TextRules, tokenizer: Tokenizer) -> None:
    captioned = sample(turns=(), caption="A Red circle, moves left!")
    example = builder(rules).build(captioned, SENTENCE)
    caption = tokenizer.encode("a red circle, moves left###")
    assert example.input_ids == [tokenizer.bos_id, *[tokenizer.video_token_id] * 5, *caption]
    assert example.labels == [-100] * 6 + caption
    audio = builder(rules, "audio").build(captioned, SENTENCE)
    assert audio.input_ids == [tokenizer.bos_id, *[tokenizer.audio_token_id] * 3, *caption]
    prompts = ("<Image><ImageHere></Image> Describe.", "<Image><ImageHere></Image> Tell.")
    prompted = TextRules(tokenizer, "default", 5, 3, "###", 40, prompts, "###Human: {} ###Assistant: ")
    assert builder(prompted).num_choices == 2
    text = builder(prompted).build(captioned, SENTENCE, choice=1).text
    assert text == "###Human: <Image><ImageHere></Image> Tell. ###Assistant: a red circle, moves left###"


def test_raw_captions_keep_their_punctuation(rules: TextRules) -> None:
    example = builder(rules).build(sample(turns=(), caption="The image, Shown!", uses_caption_rules=False), "")
    assert example.text == "<ImageHere>The image, Shown!###"


def test_the_reference_dialect_uses_the_video_sentence_in_both_branches(rules: TextRules, tokenizer: Tokenizer) -> None:
    for branch, token, count in (("vision", tokenizer.video_token_id, 5), ("audio", tokenizer.audio_token_id, 3)):
        example = builder(rules, branch, labels="reference").build(sample(), SENTENCE)  # type: ignore[arg-type]
        assert example.input_ids.count(token) == count
        assert example.text.startswith("\n\n###Human: <Video>")
        assert f"</Video> {SENTENCE}What happens?\n###Assistant: A red" in example.text
    picture = builder(rules, "audio", labels="reference").build(sample(kind="image"), "")
    assert "<Image><AudioHere><AudioHere><AudioHere></Image> What happens?" in picture.text


def test_rows_without_labels_or_with_a_truncated_medium_are_errors(rules: TextRules) -> None:
    with pytest.raises(DataError, match=r"rows.json:4: .*Raise max_length"):
        builder(rules, max_length=20).build(sample(), SENTENCE)
    late = sample(turns=(TrainingTurn("Hi", "Hello"), TrainingTurn("<image> What?", "A circle.", PLACE)))
    with pytest.raises(DataError, match=r"rows.json:4: the medium is truncated"):
        builder(rules, labels="reference", max_length=40).build(late, SENTENCE)
    empty = sample(turns=(), caption="...")
    short = TextRules(rules.tokenizer, "default", 5, 3, "", 1)
    with pytest.raises(DataError, match=r"rows.json:4: no token of the row has a label"):
        builder(short).build(empty, "")


def own(row: dict[str, Any]) -> Sample:
    return own_sample(row, "own.json:0", Path("/data"))


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]


def test_a_video_with_its_sound_equals_the_prompt_for_inference(rules: TextRules, tokenizer: Tokenizer) -> None:
    sample = own({"video": "a.mp4", "audio": "a.mp4", "messages": messages("What?", "A dog.")})
    example = builder(rules).build(sample, ["The video contains 8 frames. ", ""])
    message = media_message(video=Slot("video"), audio=Slot("audio"))
    words = [part for part in message.content if isinstance(part, str)]
    assert all(part in example.text for part in words)
    assert "The video contains" not in example.text  # as in the prompt for inference
    assert example.input_ids.count(tokenizer.audio_token_id) == 3
    assert example.input_ids.count(tokenizer.video_token_id) == 5
    assert example.input_ids.index(tokenizer.audio_token_id) < example.input_ids.index(tokenizer.video_token_id)


def test_several_images_and_a_system_text(rules: TextRules, tokenizer: Tokenizer) -> None:
    row = {"images": ["1.png", "2.png"], "system": "Be brief.", "messages": messages("<image><image> Same?", "No.")}
    example = builder(rules).build(own(row), ["", ""])
    assert (
        example.text
        == "Be brief.###Human: <Image><ImageHere></Image>  <Image><ImageHere></Image>  Same?###Assistant: No.###"
    )
    assert [span.length for span in example.spans] == [5, 5]


def test_a_row_without_a_medium_for_its_branch_is_an_error(rules: TextRules) -> None:
    sound = own({"audio": "a.wav", "caption": "Rain."})
    assert builder(rules, "audio").build(sound, "").text == "<ImageHere>rain###"
    with pytest.raises(DataError, match=r"own.json:0: the row has no medium for the vision branch"):
        builder(rules).build(sound, "")
    asked = own({"audio": "a.wav", "messages": messages("What?", "Rain.")})
    with pytest.raises(DataError, match="neither sound nor several media"):
        builder(rules, "audio", labels="reference").build(asked, "")
