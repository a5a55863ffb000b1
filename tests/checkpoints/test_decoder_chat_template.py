"""The tokenizer and template of a decoder's folder: BOS, special tokens, and missing files."""

from pathlib import Path

import pytest

from tests.factories.chat_decoders import FORMATS, write_chat_tokenizer
from video_llama.checkpoints.decoder_chat_template import read_chat_template
from video_llama.conversation import Slot, encode_prompt
from video_llama.errors import CheckpointError

COUNTS = {"num_video_tokens": 3, "num_audio_tokens": 2}


@pytest.mark.parametrize("name", FORMATS)
def test_bos_only_if_template_and_tokenizer_write_it(name, tmp_path):
    tokenizer, _ = read_chat_template(write_chat_tokenizer(tmp_path / name, name))
    assert tokenizer.add_bos == (name in ("llama3", "llama2", "gemma"))
    assert (tokenizer.encode("a", add_bos=True)[0] == tokenizer.bos_id) == tokenizer.add_bos
    caption = encode_prompt(tokenizer, [Slot("video")], **COUNTS)
    assert caption.input_ids[-3:] == [tokenizer.video_token_id] * 3
    assert len(caption.input_ids) == 3 + tokenizer.add_bos
    assert tokenizer.eos_id == tokenizer.encode(FORMATS[name].eos)[0]
    assert {tokenizer.decode([token]) for token in tokenizer.special_ids} == set(FORMATS[name].special)


def test_missing_files_are_named(tmp_path: Path):
    folder = write_chat_tokenizer(tmp_path / "decoder", "chatml")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    with pytest.raises(CheckpointError, match=r"has no chat template\. Add chat_template\.jinja"):
        read_chat_template(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist"):
        read_chat_template(folder)
