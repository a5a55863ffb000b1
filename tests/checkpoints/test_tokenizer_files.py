"""The chat template and tokenizer files that transformers reads."""

import json

import pytest
from transformers import AutoTokenizer, GenerationConfig

from tests.factories.tokenizers import train_tokenizer
from video_llama.checkpoints.tokenizer_files import write_tokenizer_files
from video_llama.conversation import Tokenizer, chat_template


@pytest.mark.parametrize("pad_token", [None, "[PAD]"])
@pytest.mark.parametrize(("template", "stop_strings"), [("llama2", None), ("default", ["###"])])
def test_files(tmp_path, pad_token, template, stop_strings):
    tokenizer = Tokenizer(train_tokenizer(tmp_path / "tokenizer.model"), pad_token=pad_token)
    write_tokenizer_files(tmp_path, tokenizer, pad_token, template)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["pad_token"] == (pad_token or "<unk>")
    assert (tmp_path / "chat_template.jinja").read_text() == chat_template(template)
    generation = GenerationConfig.from_pretrained(tmp_path)
    ids = (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id)
    assert ids == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert generation.stop_strings == stop_strings
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    special = [loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.pad_token_id]
    assert special == [tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id]
    assert loaded.convert_tokens_to_ids(["<video>", "<audio>"]) == [tokenizer.video_token_id, tokenizer.audio_token_id]
    assert len(loaded) == tokenizer.audio_token_id + 1
    for text in ("A red square.", "  two  spaces ", "###Human: a</s>b", "caf\u00e9 \u4f60\n", ""):
        assert loaded(text).input_ids == tokenizer.encode(text, add_bos=True)
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("###Human: a</s>b  c").input_ids == tokenizer.encode("###Human: a</s>b  c", add_bos=True)


def test_settings_of_the_generation_config_are_kept(tmp_path):
    tokenizer = Tokenizer(train_tokenizer(tmp_path / "tokenizer.model"))
    GenerationConfig(max_new_tokens=7).save_pretrained(tmp_path)
    write_tokenizer_files(tmp_path, tokenizer, None, "default")
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.max_new_tokens, generation.stop_strings) == (7, ["###"])
