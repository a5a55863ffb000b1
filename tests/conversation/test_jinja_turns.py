"""The chat template that is written for a decoder with its own: the same prompts as Conversation."""

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.factories.chat_decoders import FORMATS, write_chat_tokenizer
from video_llama.checkpoints.decoder_chat_template import read_chat_template
from video_llama.conversation import Conversation, Slot, media_message, turns_chat_template


@pytest.fixture(params=list(FORMATS))
def name(request):
    return request.param


def render(text, messages, **tokens):
    return render_jinja_template([messages], chat_template=text, add_generation_prompt=True, **tokens)[0][0]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_prompts_equal_those_of_conversation(name, system, tmp_path):
    tokenizer, template = read_chat_template(write_chat_tokenizer(tmp_path / "decoder", name))
    text = turns_chat_template(template, add_bos=tokenizer.add_bos)
    form = FORMATS[name]
    conversation = Conversation(template, system)
    conversation.add_media(media_message(image=Slot("video")))
    conversation.ask("What is it?")
    conversation.answer("A 'bird'.")
    conversation.ask("Sure\n?")
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A 'bird'."},
        {"role": "user", "content": "Sure\n?"},
    ]
    if name == "gemma" and system is not None:
        with pytest.raises(jinja2.TemplateError, match="no system message"):
            render(text, messages, bos_token=form.bos)
        return
    bos = form.bos if tokenizer.add_bos else ""
    ours = conversation.text().replace("<ImageHere>", "<video>")
    assert render(text, messages, bos_token=form.bos) == bos + ours


def test_answers_are_marked_for_assistant_masks(name, tmp_path):
    tokenizer, template = read_chat_template(write_chat_tokenizer(tmp_path / "decoder", name))
    text = turns_chat_template(template, add_bos=tokenizer.add_bos)
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A bird."}]
    [prompt], [spans] = render_jinja_template(
        [messages], chat_template=text, return_assistant_tokens_mask=True, bos_token=FORMATS[name].bos
    )
    assert [prompt[start:end].strip() for start, end in spans] == [f"A bird.{template.turns.answer_end}"]
