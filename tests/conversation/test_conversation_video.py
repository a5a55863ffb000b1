"""The exact text of prompts in each style, for any media in any order."""

from __future__ import annotations

from itertools import permutations

import pytest

from video_llama.conversation import (
    TEMPLATES,
    Conversation,
    MediaMessage,
    Slot,
    Style,
    Template,
    media_message,
    prompt_text,
    render,
)
from video_llama.conversation.conversation_video import IMAGE_SYSTEM
from video_llama.errors import PromptError

SENTENCE = "The video contains 2 frames sampled at 0.0, 1.0 seconds. "
VIDEO = media_message(video=Slot("video"), sentence=SENTENCE)
SOUND = media_message(audio=Slot("audio"))
FILM = media_message(video=Slot("video"), audio=Slot("audio"))
IMAGE = media_message(image=Slot("video"))
MEDIA = {"video": VIDEO, "sound": SOUND, "film": FILM, "image": IMAGE}


def two_turns(template: Template, media: MediaMessage | None = None, system: str | None = None) -> Conversation:
    conversation = Conversation(template, system)
    if media is not None:
        conversation.add_media(media)
    conversation.ask("Who?")
    conversation.answer("A dog.")
    conversation.ask("Where?")
    return conversation


def test_vicuna_with_a_video() -> None:
    assert two_turns(TEMPLATES["default"], VIDEO).text() == (
        f"###Human: <Video><ImageHere></Video> {SENTENCE} Who?###Assistant: A dog.###Human: Where?###Assistant:"
    )


def test_llama_2_with_a_video() -> None:
    assert two_turns(TEMPLATES["llama2"], VIDEO).text() == (
        f"[INST] <<SYS>>\n\n<</SYS>>\n\n<Video><ImageHere></Video> {SENTENCE} Who? [/INST] A dog. </s>"
        "<s>[INST] Where? [/INST]"
    )


def test_two_separators_alternate() -> None:
    template = Template(Style.TWO, "Hello.", ("USER", "ASSISTANT"), " ", "</s>")
    assert template.stop_string == "</s>"
    assert two_turns(template).text() == "Hello. USER: Who? ASSISTANT: A dog.</s>USER: Where? ASSISTANT:"


def test_a_video_with_sound_keeps_the_references_spaces() -> None:
    assert two_turns(TEMPLATES["default"], FILM).text().split(" Who?")[0] == (
        "###Human: Close your eyes, open your ears and you imagine only based on the sound that: <ImageHere>."
        + " " * 17
        + "Close your ears, open your eyes and you see that <Video><ImageHere></Video>."
        + " " * 18
        + "Now answer my question based on what you have just seen and heard."
    )
    assert [slot.kind for slot in FILM.slots] == ["audio", "video"]


@pytest.mark.parametrize("template", ["default", "llama2"])
def test_the_first_medium_decides_the_system(template: str) -> None:
    own = TEMPLATES[template].system
    of_image = IMAGE_SYSTEM if template == "default" else own
    expected = {"none": own, "video": "", "sound": "", "film": "", "image": of_image}
    for name, system in expected.items():
        assert two_turns(TEMPLATES[template], MEDIA.get(name)).resolved_system == system
        assert two_turns(TEMPLATES[template], MEDIA.get(name), "Be short.").resolved_system == "Be short."


@pytest.mark.parametrize("template", ["default", "llama2"])
@pytest.mark.parametrize("order", list(permutations(MEDIA)))
def test_media_in_any_order_in_one_question_or_several(template: str, order: tuple[str, ...]) -> None:
    expected = [slot for name in order for slot in MEDIA[name].slots]
    together, apart = Conversation(TEMPLATES[template]), Conversation(TEMPLATES[template])
    for name in order:
        together.add_media(MEDIA[name])
        apart.add_media(MEDIA[name])
        apart.ask("Who?")
        apart.answer("A dog.")
    together.ask("Who?")
    apart.ask("Where?")
    for conversation in (together, apart):
        assert [part for part in conversation.prompt() if isinstance(part, Slot)] == expected
        assert conversation.text().count("<ImageHere>") == len(expected)
    assert apart.text().count("A dog.") == 4


@pytest.mark.parametrize("template", ["default", "llama2"])
def test_consecutive_questions_are_merged_without_loss(template: str) -> None:
    conversation = Conversation(TEMPLATES[template])
    conversation.add_media(VIDEO)
    conversation.ask("Who?")
    conversation.ask("Where?")
    text = conversation.text()
    assert text.index("Who?") < text.index("Where?")
    assert text.endswith("###Assistant:" if template == "default" else " [/INST]")


def test_a_medium_described_in_words_replaces_the_slot() -> None:
    described = media_message(video="a red square moves", sentence=SENTENCE)
    assert two_turns(TEMPLATES["default"], described).prompt() == [
        "###Human: <Video>",
        "a red square moves",
        f"</Video> {SENTENCE} Who?###Assistant: A dog.###Human: Where?###Assistant:",
    ]


def test_after_an_answer_the_prompt_ends_with_the_stop_string() -> None:
    for name, end in (("default", "###"), ("llama2", " </s>")):
        conversation = two_turns(TEMPLATES[name])
        conversation.answer("Here.")
        assert conversation.text().endswith(f" Here.{end}")


def test_placeholder_text_typed_by_the_user_is_not_a_slot() -> None:
    conversation = Conversation(TEMPLATES["default"])
    conversation.ask("What does <ImageHere> mean?")
    assert conversation.prompt() == ["###Human: What does <ImageHere> mean?###Assistant:"]


def test_render_merges_text_up_to_the_slots() -> None:
    messages = [("Human", ("a", Slot("video"), "b", Slot("audio"))), ("Assistant", None)]
    prompt = render(TEMPLATES["default"], messages, "S ")
    assert prompt == ["S ###Human: a", Slot("video"), "b", Slot("audio"), "###Assistant:"]
    assert prompt_text(prompt) == "S ###Human: a<ImageHere>b<ImageHere>###Assistant:"


def test_invalid_media_messages_are_refused() -> None:
    with pytest.raises(PromptError, match=r"The conversation is empty\. Ask a question first"):
        Conversation().prompt()
    with pytest.raises(PromptError, match=r"no question to answer\. Ask one first"):
        Conversation().answer("Yes.")
    with pytest.raises(ValueError, match=r"video got a Slot\('audio'\)\. Give Slot\('video'\)"):
        media_message(video=Slot("audio"))
    with pytest.raises(ValueError, match="an image cannot be combined with video or audio"):
        media_message(image=Slot("video"), audio=Slot("audio"))
    with pytest.raises(ValueError, match="no medium given"):
        media_message(sentence=SENTENCE)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("default", "###Human: Who?###Assistant: ###Human: Where?###Assistant:"),
        ("llama2", "[INST] <<SYS>>\nS\n<</SYS>>\n\nWho? [/INST]  </s><s>[INST] Where? [/INST]"),
    ],
)
def test_an_empty_answer_is_a_turn_of_its_own(template: str, expected: str) -> None:
    conversation = Conversation(TEMPLATES[template], "" if template == "default" else "S")
    conversation.ask("Who?")
    conversation.answer("")
    conversation.ask("Where?")
    assert conversation.text() == expected


@pytest.mark.parametrize("template", ["default", "llama2"])
def test_turns_of_empty_texts_are_separated_like_others(template: str) -> None:
    def text(question: str, answer: str) -> str:
        conversation = Conversation(TEMPLATES[template], "S")
        for _ in range(2):
            conversation.ask(question)
            conversation.answer(answer)
        return conversation.text()

    assert text("", "") == text("QQ", "AA").replace("QQ", "").replace("AA", "")
