"""The tokenizer: the stop mark is one piece, and every text is restored."""

from pathlib import Path

from video_llama.conversation import Tokenizer
from video_llama.miniature.tokenizer import NUM_PIECES, STOP_MARK


def test_the_stop_mark_is_one_piece_in_every_context(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    assert tokenizer.vocab_size == NUM_PIECES
    [mark] = {tokenizer.encode(f"a{end}{STOP_MARK}")[-1] for end in (".", "?", "", " ")}
    assert tokenizer.decode([mark]) == STOP_MARK


def test_any_text_is_restored(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    for text in ("Wie heißt du? 你好", "two  spaces", "\ttab\nline", "12.5 seconds"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
