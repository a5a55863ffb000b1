"""A tokenizer.json with the interface of the SentencePiece tokenizer: places, first texts, round trips, bad files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.factories.chat_decoders import TEXT, write_chat_tokenizer
from video_llama.conversation import FastTokenizer, open_tokenizer_file
from video_llama.errors import CheckpointError, PromptError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_tokenizer(tmp_path_factory.mktemp("fast") / "decoder", "chatml")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return FastTokenizer((folder / "tokenizer.json").read_text(), eos_token="<|im_end|>", bos_token="<|im_start|>")


@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
@settings(deadline=None, max_examples=50)
def test_decode_inverts_encode(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_places_are_ids_and_never_text(tokenizer):
    assert (tokenizer.video_token_id, tokenizer.audio_token_id) == (tokenizer.vocab_size, tokenizer.vocab_size + 1)
    assert max(tokenizer.encode("a <video> and <audio>")) < tokenizer.vocab_size
    ids = [*tokenizer.encode("one"), tokenizer.video_token_id, tokenizer.audio_token_id]
    assert tokenizer.decode(ids) == "one<video><audio>"
    assert tokenizer.decode(ids, placeholders=True) == "one<ImageHere><AudioHere>"
    for wrong in (-1, tokenizer.vocab_size + 2):
        with pytest.raises(ValueError, match=r"Use the tokenizer of the model"):
            tokenizer.decode([wrong])
    with pytest.raises(ValueError, match="Placeholders are texts of the reference"):
        tokenizer.encode("a", placeholders=True)
    with pytest.raises(PromptError, match="lone surrogate"):
        tokenizer.encode("\ud800")


def test_without_bos_and_padding_token_eos_is_used(folder):
    plain = FastTokenizer((folder / "tokenizer.json").read_text(), eos_token="<|im_end|>")
    assert plain.bos_id == plain.pad_id == plain.eos_id
    assert plain.unk_id == -1


def test_saved_files_are_read_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = open_tokenizer_file(tmp_path / "tokenizer.json")
    assert isinstance(again, FastTokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.special_ids == tokenizer.special_ids
    assert again.encode("What do you see?<|im_end|>") == tokenizer.encode("What do you see?<|im_end|>")
    assert again.content == tokenizer.content
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    assert backend.token_to_id("<video>") == tokenizer.video_token_id
    assert backend.encode("<audio>").ids == [tokenizer.audio_token_id]


def test_a_space_mark_before_the_first_text_only():
    """Later segments are encoded as within the whole text."""
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(TEXT * 5, trainer)
    tokenizer = FastTokenizer(backend.to_str(), eos_token="</s>", bos_token="<s>")
    whole = backend.encode("What moves?</s>What moves?", add_special_tokens=False).ids
    first = tokenizer.encode("What moves?", add_bos=True)
    assert [*first, tokenizer.eos_id, *tokenizer.encode("What moves?")] == whole
    assert first != tokenizer.encode("What moves?")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"added_tokens": [3]}', '{"model": {"type": "BPE"}}'])
def test_files_that_are_no_tokenizer(content):
    with pytest.raises(CheckpointError, match=r"is not a tokenizer\.json"):
        FastTokenizer(content, eos_token="</s>")


def test_wrong_tokens(folder, tmp_path):
    content = (folder / "tokenizer.json").read_text()
    with pytest.raises(CheckpointError, match=r"the eos_token '</s>' is not a token"):
        FastTokenizer(content, eos_token="</s>")
    data = json.loads(content)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"].append({"id": 320, "content": "<video>", "special": True, **flags})
    with pytest.raises(CheckpointError, match="has tokens <video> that are not the media places"):
        FastTokenizer(json.dumps(data), eos_token="<|im_end|>")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_tokenizer_file(tmp_path / "tokenizer.json")
