"""Read a decoder's folder: its tokenizer, and the prompt style that follows from the model type."""

import json
import logging
from pathlib import Path

import pytest

from tests.factories.published_weights import golden_weights, write_decoder
from video_llama.checkpoints.decoder_folder import DecoderFolder, read_decoder_folder
from video_llama.checkpoints.files import scan
from video_llama.errors import CheckpointError

LLAMA_2, VICUNA = "llama-2-7b-chat-hf", "vicuna-7b"


@pytest.fixture
def write(tmp_path):
    """Write a decoder's folder of the given name and return its path."""

    def write_folder(name: str, *, pad_row: bool = False) -> Path:
        write_decoder(tmp_path / name, golden_weights(), kind=name, pad_row=pad_row)
        return tmp_path / name

    return write_folder


def read(folder: Path, requested=None) -> DecoderFolder:
    return read_decoder_folder(folder, scan(folder)["model.embed_tokens.weight"].shape[0], requested)


def test_llama_2_chat(write):
    decoder = read(write(LLAMA_2))
    assert (decoder.model_type, decoder.pad_token) == ("llama_v2", None)
    assert (decoder.text_config["bos_token_id"], decoder.text_config["pad_token_id"]) == (1, 0)
    assert decoder.text_config["vocab_size"] == scan(decoder.folder)["lm_head.weight"].shape[0]
    assert not decoder.text_config.keys() & {"architectures", "torch_dtype", "_name_or_path"}


def test_vicuna_v0_with_its_padding_token(write):
    folder = write(VICUNA, pad_row=True)
    decoder = read(folder)
    assert (decoder.model_type, decoder.pad_token) == ("vicuna", "[PAD]")
    assert decoder.text_config["pad_token_id"] == scan(folder)["lm_head.weight"].shape[0] - 1


def test_vicuna_without_padding_token_gives_a_warning(write, caplog):
    with caplog.at_level(logging.WARNING, logger="video_llama"):
        assert read(write(VICUNA)).model_type == "vicuna"
    assert "has no [PAD], so it is not Vicuna v0" in caplog.text


def test_a_chat_template_indicates_the_model_type(write):
    folder = write("decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<<SYS>>..."}))
    assert read(folder).model_type == "llama_v2"


def test_an_unknown_model_type_must_be_set(write):
    folder = write("decoder")
    with pytest.raises(
        CheckpointError, match=r"model type of .* is unknown.* Set --model_type llama_v2 or --model_type"
    ):
        read(folder)
    assert read(folder, "llama_v2").model_type == "llama_v2"


@pytest.mark.parametrize(
    ("name", "pad_row", "requested", "message"),
    [
        (LLAMA_2, False, "vicuna", r"is vicuna, but .* is llama_v2: its name is llama-2-7b.*Use --model_type llama_v2"),
        (VICUNA, True, "llama_v2", r"is llama_v2, but .* is vicuna: its vocabulary contains Vicuna v0's \[PAD\]"),
        (LLAMA_2, True, None, r"is ambiguous: its name is llama-2-7b-chat-hf \(llama_v2\), but its vocabulary.*Rename"),
    ],
)
def test_contradictions(write, name, pad_row, requested, message):
    with pytest.raises(CheckpointError, match=message):
        read(write(name, pad_row=pad_row), requested)


def test_another_architecture(write):
    folder = write(LLAMA_2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    with pytest.raises(CheckpointError, match=r"contains a 'mistral' model\. The decoder must be a LLaMA"):
        read(folder)


def test_a_tokenizer_of_another_size(write):
    with pytest.raises(CheckpointError, match=r"has 100 rows, but tokenizer\.model has \d+ tokens.* Use the tokenizer"):
        read_decoder_folder(write(LLAMA_2), 100, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json does not exist\. Copy the complete folder of the decoder"),
        ("{", r"config\.json is not valid JSON"),
        ("[1]", r"config\.json contains a list instead of an object"),
    ],
)
def test_config_that_cannot_be_read(write, content, message):
    folder = write(LLAMA_2)
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read(folder)
