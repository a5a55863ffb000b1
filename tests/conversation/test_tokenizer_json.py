"""tokenizer.json has the token ids of the SentencePiece tokenizer, for any text."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as JsonTokenizer

from tests.factories.tokenizers import train_tokenizer
from video_llama.conversation import Tokenizer, tokenizer_json
from video_llama.errors import CheckpointError

PARTS = (
    *(
        " ",
        "  ",
        "       ",
        "\n",
        "\r\n",
        "\t",
        "###",
        "##",
        "#",
        "a",
        "The",
        " video",
        "square",
        "1",
        "10",
        ".",
        "...",
    ),
    *(
        "</s>",
        "<s>",
        "<unk>",
        "[PAD]",
        "</Video>",
        "<Image>",
        "<0x0A>",
        "\u2581",
        "\u00e9",
        "\u0301",
        "\u4f60",
        "\U0001f600",
        "\x00",
    ),
)
TEXTS = st.one_of(st.lists(st.sampled_from(PARTS), max_size=10).map("".join), st.text(max_size=20))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, repository, tokenizer_path):
    """Pairs of tokenizers: with and without pieces of the author, with and without a padding token of its own."""
    symbols = train_tokenizer(tmp_path_factory.mktemp("symbols") / "tokenizer.model", symbols=["#H", "###"])
    miniature = repository / "video_llama/miniature/weights/tokenizer.model"
    return [pair(path, pad) for path in (tokenizer_path, symbols, miniature) for pad in (None, "[PAD]")]


def pair(path, pad_token=None):
    text = json.dumps(tokenizer_json(path, pad_token=pad_token), ensure_ascii=False)
    return Tokenizer(path, pad_token=pad_token), JsonTokenizer.from_str(text)


def assert_equal(pairs, text):
    for ours, theirs in pairs:
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text), text
        assert theirs.encode(text).ids == ours.encode(text, add_bos=True)


@given(TEXTS)
@settings(max_examples=300)
@example("###<0x0A>###")
@example(" ###")
@example("")
def test_ids_of_any_text(pairs, text):
    assert_equal(pairs, text)


def test_ids_of_every_piece(pairs):
    for ours, theirs in pairs:
        for token in range(ours.vocab_size):
            text = theirs.id_to_token(token)
            for each in (text, f"###{text}", f"a {text}{text}"):
                assert_equal([(ours, theirs)], each)


def test_places_of_media(pairs):
    for ours, theirs in pairs:
        ids = theirs.encode("a <video><video></Video> b<audio>.", add_special_tokens=False).ids
        video, audio = ours.video_token_id, ours.audio_token_id
        assert ids == [*ours.encode("a "), video, video, *ours.encode("</Video> b"), audio, *ours.encode(".")]
        assert theirs.get_vocab_size() == audio + 1


@given(st.lists(st.sampled_from(PARTS[:16]), max_size=10).map("".join))
def test_decoding(pairs, text):
    for _, theirs in pairs:
        assert theirs.decode(theirs.encode(text, add_special_tokens=False).ids) == text


def test_llamas_tokenizer(llama_tokenizer):
    for pad_token in (None, "[PAD]"):
        tokenizers = [pair(llama_tokenizer, pad_token)]
        for text in ("What do you see?  And\n\thear?", "###Human: <Video>", "a</s>b", "  4 + 4 = 8", "\u4f60\u597d"):
            assert_equal(tokenizers, text)


def test_rules_that_cannot_be_written(tmp_path):
    path = tmp_path / "tokenizer.model"
    train_tokenizer(path)
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    proto.normalizer_spec.remove_extra_whitespaces = True
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="remove_extra_whitespaces is True, but only False can be written"):
        tokenizer_json(path)
