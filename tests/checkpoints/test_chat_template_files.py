"""generation_config.json of a decoder with its own chat template: every token and text that ends an answer."""

import json
from dataclasses import replace

import pytest

from tests.factories.chat_decoders import write_chat_tokenizer
from video_llama.checkpoints.chat_template_files import write_chat_template_files
from video_llama.checkpoints.decoder_chat_template import read_chat_template
from video_llama.conversation import chat_template_of


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_ends_of_answers(name, tmp_path):
    tokenizer, template = read_chat_template(write_chat_tokenizer(tmp_path / "decoder", name))
    write_chat_template_files(tmp_path, tokenizer, template, context_length=200)
    data = json.loads((tmp_path / "generation_config.json").read_text())
    [stop] = tokenizer.encode(template.stop_string)
    assert data["eos_token_id"] == (tokenizer.eos_id if name == "chatml" else [tokenizer.eos_id, stop])
    assert data["max_new_tokens"] == 100
    assert data.get("stop_strings") is None
    assert "generation" in (tmp_path / "chat_template.jinja").read_text()


def test_an_end_that_is_not_a_token_is_a_stop_string(tmp_path):
    tokenizer, template = read_chat_template(write_chat_tokenizer(tmp_path / "decoder", "chatml"))
    other = chat_template_of(replace(template.turns, answer_end=" [END]"), "")
    write_chat_template_files(tmp_path, tokenizer, other, context_length=200)
    data = json.loads((tmp_path / "generation_config.json").read_text())
    assert (data["stop_strings"], data["eos_token_id"]) == (["[END]"], tokenizer.eos_id)
