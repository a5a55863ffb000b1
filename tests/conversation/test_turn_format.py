"""The turn format derived from a chat template: prompts, BOS, system texts, guards, labels, and refused templates."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.factories.chat_decoders import FORMATS, write_chat_tokenizer
from video_llama.checkpoints.decoder_chat_template import read_chat_template
from video_llama.conversation import (
    IGNORE_INDEX,
    Conversation,
    FastTokenizer,
    Slot,
    StreamDecoder,
    Template,
    TextGuard,
    TrainingTurn,
    TurnFormat,
    derive_turn_format,
    encode_prompt,
    media_message,
    postprocess,
    training_example,
)
from video_llama.errors import CheckpointError, DataError, PromptError

COUNTS = {"num_video_tokens": 3, "num_audio_tokens": 2}


def rendered(template: str, messages: list[dict[str, str]], is_open: bool, **tokens: Any) -> str:
    """Render a chat template as transformers does, without its code."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template).render(messages=messages, add_generation_prompt=is_open, **tokens)


@pytest.fixture(scope="module", params=list(FORMATS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def decoder(name, tmp_path_factory) -> tuple[FastTokenizer, Template]:
    return read_chat_template(write_chat_tokenizer(tmp_path_factory.mktemp("turns") / name, name))


def test_a_conversation_is_the_template_s_text(name, decoder):
    tokenizer, template = decoder
    form = FORMATS[name]
    texts = ["What do you see?", "A bird.", "Which\ncolour?", "Red.", "Sure?"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    conversation = Conversation(template)
    for question, answer in (texts[:2], texts[2:4]):
        conversation.ask(question)
        conversation.answer(answer)
    conversation.ask(texts[-1])
    theirs = rendered(form.template, messages, True, bos_token=form.bos, eos_token=form.eos)
    assert (form.bos if tokenizer.add_bos else "") + conversation.text() == theirs
    ids = encode_prompt(tokenizer, conversation.prompt(), **COUNTS).input_ids
    assert tokenizer.decode(ids) == theirs


def test_system_texts(name, decoder):
    _, template = decoder
    conversation = Conversation(template, "Be brief.")
    conversation.add_media(media_message(image=Slot("video")))
    conversation.ask("Hi")
    if name == "gemma":
        with pytest.raises(PromptError, match="no system message"):
            conversation.prompt()
    else:
        assert conversation.text().count("Be brief.") == 1
    conversation = Conversation(template)
    conversation.add_media(media_message(video=Slot("video"), sentence="Two frames. "))
    conversation.ask("Hi")
    assert ("You are helpful." in conversation.text()) == (name == "chatml")


def test_typed_marks_are_neutralized(name, decoder):
    tokenizer, template = decoder
    guard = TextGuard.of(template, tokenizer.special_texts)
    typed = {"zephyr": ["<|user|>", "</s>"], "llama2": ["<<SYS>>", "[/INST]", "[INST]"]}
    for text in [*FORMATS[name].special, *typed.get(name, [])]:
        assert text not in guard.clean(f"a {text} b")
    question = "What does the user, the assistant or the system see? Date: 3 May. # A list"
    assert guard.clean(question) == question
    ids = tokenizer.encode(guard.clean("".join(FORMATS[name].special)))
    assert not tokenizer.special_ids & set(ids)


def test_labels_are_on_answers_and_their_ends(decoder):
    tokenizer, template = decoder
    media = media_message(video=Slot("video"), sentence="Two frames. ")
    turns = [TrainingTurn("What?", "A red bird.", (media,)), TrainingTurn("Sure?", "Yes.")]
    example = training_example(tokenizer, turns, template=template, **COUNTS)
    runs: list[list[int]] = [[]]
    for label in example.labels:
        if label != IGNORE_INDEX:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    texts = [tokenizer.decode(run) for run in runs if run]
    stop = template.stop_string
    assert [text.strip() for text in texts] == [f"A red bird.{_gap(template)}{stop}", f"Yes.{_gap(template)}{stop}"]
    assert [span.length for span in example.spans] == [3]
    with pytest.raises(DataError, match=r"labels: reference.*own chat template"):
        training_example(tokenizer, turns, template=template, dialect="reference", **COUNTS)


def _gap(template: Template) -> str:
    assert template.turns is not None
    return template.turns.answer_end.removesuffix(template.stop_string)


def test_answers_end_at_the_stop_string(decoder):
    tokenizer, template = decoder
    text = "The assistant: a red bird, naïve"
    ids = [*tokenizer.encode(text), *tokenizer.encode(template.stop_string), *tokenizer.encode("more")]
    assert postprocess(tokenizer, ids, template) == text
    stream = StreamDecoder(tokenizer, template)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == text == stream.answer
    assert stream.is_stopped
    assert not stream.has_restarted


HEAD = "{% for m in messages %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            HEAD + "<{{ m.role }}>{{ m.content | upper }}</s>{% endfor %}",
            "must occur in the prompt once and",
        ),
        (HEAD + "{{ m.content }}{{ m.content }}</s>{% endfor %}", r"must occur in the prompt once"),
        (HEAD + "<{{ m.role }}>{{ m.content }}{% endfor %}", "is not that of an earlier answer"),
        (HEAD + "<{{ loop.index }}>{{ m.content }}</s>{% endfor %}", "depends on the other messages|not that of"),
        (
            HEAD + "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
            "an answer has no end symbol",
        ),
        (
            HEAD + "<{{ m.role }}>{{ m.content }}</s>{{ loop.index if loop.index > 3 }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}",
            "the derived format writes",
        ),
    ],
)
def test_other_templates_are_refused(template, message):
    def render(messages: list[dict[str, str]], is_open: bool) -> str:
        return rendered(template, messages, is_open)

    with pytest.raises(CheckpointError, match=message):
        derive_turn_format(render, ["</s>"])


def test_a_turn_format_without_an_end_is_refused():
    with pytest.raises(CheckpointError, match="answer_end is empty"):
        TurnFormat.from_dict(TurnFormat("", None, "", "", "", "", "", False).as_dict())
