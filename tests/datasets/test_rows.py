"""The text around a medium: exactly what is served, in the branch's kind of slot, or what the reference trained on."""

from pathlib import Path

import pytest

from video_llama.conversation import Conversation, Slot, Tokenizer, TrainingTurn, encode_prompt, media_message
from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.datasets.rows import RowBuilder, TextRules
from video_llama.datasets.sample import Sample
from video_llama.errors import DataError

SENTENCE = "The video contains 2 frames sampled at 0.0, 0.5 seconds. "
SHOWN = (media_message(image=Slot("video")),)


def sample(**changes: object) -> Sample:
    turns = (TrainingTurn("What happens?", "A red circle moves left.", SHOWN), TrainingTurn("And then?", "It is blue."))
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
def test_a_row_is_what_serving_renders(
    rules: TextRules, tokenizer: Tokenizer, branch: Branch, words: dict[str, str], message: object
) -> None:
    example = builder(rules, branch).build(sample(**words), SENTENCE)
    served = served_ids(tokenizer, message)
    is_picture = words.get("kind") == "image"
    # A picture has a system text under the Vicuna template, which stands before everything: compare what follows it.
    assert example.input_ids[-len(served) + 2 :] == served[2:] if is_picture else example.input_ids == served
    learnt = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "A red circle moves left.### It is blue.###"


def test_captions_are_bare_or_in_an_instruction(rules: TextRules, tokenizer: Tokenizer) -> None:
    shown = sample(turns=(), caption="A Red circle, moves left!")
    example = builder(rules).build(shown, SENTENCE)
    caption = tokenizer.encode("a red circle, moves left###")
    assert example.input_ids == [tokenizer.bos_id, *[tokenizer.video_token_id] * 5, *caption]
    assert example.labels == [-100] * 6 + caption
    heard = builder(rules, "audio").build(shown, SENTENCE)
    assert heard.input_ids == [tokenizer.bos_id, *[tokenizer.audio_token_id] * 3, *caption]
    prompts = ("<Image><ImageHere></Image> Describe.", "<Image><ImageHere></Image> Tell.")
    prompted = TextRules(tokenizer, "default", 5, 3, "###", 40, prompts, "###Human: {} ###Assistant: ")
    assert builder(prompted).num_choices == 2
    text = builder(prompted).build(shown, SENTENCE, choice=1).text
    assert text == "###Human: <Image><ImageHere></Image> Tell. ###Assistant: a red circle, moves left###"


def test_raw_captions_keep_their_marks(rules: TextRules) -> None:
    example = builder(rules).build(sample(turns=(), caption="The image, Shown!", uses_caption_rules=False), "")
    assert example.text == "<ImageHere>The image, Shown!###"


def test_the_reference_dialect_has_the_video_sentence_in_both_branches(rules: TextRules, tokenizer: Tokenizer) -> None:
    for branch, token, count in (("vision", tokenizer.video_token_id, 5), ("audio", tokenizer.audio_token_id, 3)):
        example = builder(rules, branch, labels="reference").build(sample(), SENTENCE)  # type: ignore[arg-type]
        assert example.input_ids.count(token) == count
        assert example.text.startswith("\n\n###Human: <Video>")
        assert f"</Video> {SENTENCE}What happens?\n###Assistant: A red" in example.text
    picture = builder(rules, "audio", labels="reference").build(sample(kind="image"), "")
    assert "<Image><AudioHere><AudioHere><AudioHere></Image> What happens?" in picture.text


def test_a_row_without_an_answer_in_reach_is_named(rules: TextRules) -> None:
    with pytest.raises(DataError, match=r"rows.json:4: .*Raise max_length"):
        builder(rules, max_length=20).build(sample(), SENTENCE)
    late = sample(turns=(TrainingTurn("Hi", "Hello"), TrainingTurn("<image> What?", "A circle.", SHOWN)))
    with pytest.raises(DataError, match=r"rows.json:4: the medium lies beyond the cut"):
        builder(rules, labels="reference", max_length=40).build(late, SENTENCE)
    empty = sample(turns=(), caption="...")
    short = TextRules(rules.tokenizer, "default", 5, 3, "", 1)
    with pytest.raises(DataError, match=r"rows.json:4: no token of the row is learnt"):
        builder(short).build(empty, "")
