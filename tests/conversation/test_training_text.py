"""Training texts equal serving prompts in text and ids, and only the answers have labels."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.conversation import (
    IGNORE_INDEX,
    TEMPLATES,
    Conversation,
    MediaMessage,
    Slot,
    Style,
    Template,
    Tokenizer,
    TrainingExample,
    TrainingTurn,
    encode_prompt,
    media_message,
    postprocess,
    training_example,
)
from video_llama.errors import DataError

VIDEO = media_message(video=Slot("video"), sentence="The video contains 1 frames sampled at 0.0 seconds. ")
MEDIA = [VIDEO, media_message(audio=Slot("audio")), media_message(video=Slot("video"), audio=Slot("audio"))]
MEDIA += [media_message(image=Slot("video"))]
COUNTS = {"num_video_tokens": 32, "num_audio_tokens": 8}
STYLES: dict[str, Template] = {
    "SINGLE": TEMPLATES["default"],
    "LLAMA_2": TEMPLATES["llama2"],
    "TWO": Template(Style.TWO, "A chat.", ("USER", "ASSISTANT"), " ", "</s>"),
}
TEXT = st.text("abcdefgh ,.?!ABé音1", min_size=1).map(str.strip).filter(bool)
TURNS = st.lists(
    st.builds(TrainingTurn, TEXT, TEXT, st.lists(st.sampled_from(MEDIA), max_size=2).map(tuple)), min_size=1, max_size=4
)


@pytest.fixture(scope="module", params=["small", "llama"])
def either(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "small":
        return request.getfixturevalue("tokenizer")  # type: ignore[no-any-return]
    return Tokenizer(request.getfixturevalue("llama_tokenizer"))


def served(
    template: Template, turns: list[TrainingTurn], system: str
) -> tuple[list[list[int | str | Slot]], Conversation]:
    """Run the turns as a chat does. Return the prompt before each answer, and the finished conversation."""
    conversation, prompts = Conversation(template, system), []
    for turn in turns:
        for media in turn.media:
            conversation.add_media(media)
        conversation.ask(turn.question)
        prompts.append(conversation.prompt())
        conversation.answer(turn.answer)
    return prompts, conversation  # type: ignore[return-value]


def labelled(example: TrainingExample) -> list[list[int]]:
    """Return the consecutive labels that are not ignored."""
    return [list(run) for is_label, run in groupby(example.labels, IGNORE_INDEX.__ne__) if is_label]


@given(turns=TURNS, style=st.sampled_from(sorted(STYLES)))
def test_training_text_equals_the_serving_prompt(either: Tokenizer, turns: list[TrainingTurn], style: str) -> None:
    template = STYLES[style]
    example = training_example(either, turns, template=template, system="Look.", **COUNTS)
    prompts, finished = served(template, turns, "Look.")
    assert example.text == finished.text()
    assert example.input_ids == encode_prompt(either, finished.prompt(), **COUNTS).input_ids
    for prompt in prompts:
        ids = encode_prompt(either, prompt, **COUNTS).input_ids  # type: ignore[arg-type]
        assert example.input_ids[: len(ids)] == ids, "the prompt before the answer"


@given(turns=TURNS, style=st.sampled_from(sorted(STYLES)))
def test_labels_cover_the_answers_and_their_end_symbols(
    either: Tokenizer, turns: list[TrainingTurn], style: str
) -> None:
    template = STYLES[style]
    example = training_example(either, turns, template=template, **COUNTS)
    assert all(label in (IGNORE_INDEX, token) for label, token in zip(example.labels, example.input_ids, strict=True))
    runs = labelled(example)
    assert len(runs) == len(turns)
    for run, turn in zip(runs, turns, strict=True):
        text = either.decode(run)
        assert text.rstrip(" ").endswith(template.stop_string)
        assert text.split(template.stop_string)[0].strip() == turn.answer
        assert postprocess(either, run, template) == turn.answer, "the answer after serving's postprocessing"
    for span in example.spans:
        assert set(example.labels[span.start : span.start + span.length]) == {IGNORE_INDEX}


def test_exact_text_and_labels(either: Tokenizer) -> None:
    example = training_example(
        either, [TrainingTurn("Who?", "A dog.", (VIDEO,)), TrainingTurn("Where?", "Here.")], **COUNTS
    )
    assert example.text == (
        "###Human: <Video><ImageHere></Video> The video contains 1 frames sampled at 0.0 seconds.  Who?###Assistant: "
        "A dog.###Human: Where?###Assistant: Here.###"
    )
    assert [either.decode([5, *run]) for run in labelled(example)] == [
        either.decode([5]) + " A dog.###",
        either.decode([5]) + " Here.###",
    ]


def test_a_token_that_spans_the_end_symbol_has_a_label(greedy_tokenizer: Tokenizer) -> None:
    example = training_example(
        greedy_tokenizer, [TrainingTurn("Who?", "A dog."), TrainingTurn("Where?", "Here.")], **COUNTS
    )
    first, second = (greedy_tokenizer.decode(run) for run in labelled(example))
    assert (first, second) == ("A dog.###H", "Here.###")


def test_the_first_medium_decides_the_system_of_the_whole_text(tokenizer: Tokenizer) -> None:
    turns = [TrainingTurn("Hello?", "Hello."), TrainingTurn("Who?", "A dog.", (media_message(image=Slot("video")),))]
    text = training_example(tokenizer, turns, **COUNTS).text
    assert text.startswith("You are able to understand the visual content")
    assert training_example(tokenizer, turns, system="", **COUNTS).text.startswith("###Human: Hello?")


def test_truncation_never_cuts_a_medium_or_removes_all_answers(tokenizer: Tokenizer) -> None:
    turns = [TrainingTurn("Who?", "A dog.", (VIDEO,)), TrainingTurn("Where?", "Here.", (VIDEO,))]
    whole = training_example(tokenizer, turns, **COUNTS)
    second = whole.spans[1]
    least = second.start + second.length
    for max_length in range(1, least):
        with pytest.raises(DataError, match=rf"has {len(whole.input_ids)} tokens and .* first {max_length}\."):
            training_example(tokenizer, turns, max_length=max_length, **COUNTS)
    for max_length in range(least, len(whole.input_ids) + 3):
        cut = training_example(tokenizer, turns, max_length=max_length, **COUNTS)
        assert cut.input_ids == whole.input_ids[:max_length]
        assert cut.labels == whole.labels[:max_length]


def test_media_are_part_of_the_question(tokenizer: Tokenizer) -> None:
    media: tuple[MediaMessage, ...] = (VIDEO, media_message(audio=Slot("audio")))
    example = training_example(tokenizer, [TrainingTurn("Who?", "A dog.", media)], **COUNTS)
    assert [(span.kind, span.length) for span in example.spans] == [("video", 32), ("audio", 8)]


def test_a_row_without_turns_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no question and answer"):
        training_example(tokenizer, [], **COUNTS)
