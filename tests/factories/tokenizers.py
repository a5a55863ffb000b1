"""SentencePiece tokenizers of the same kind as LLaMA's, trained on a few sentences in well under a second."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

NUM_PIECES = 380
SENTENCES = (
    "A red square moves to the left. A blue circle moves up and a green triangle stays where it is.",
    "What do you see in the video? What do you hear? Describe the sound, the colour and the shape.",
    "###Human: <Video></Video> The video contains 8 frames sampled at 0.0, 1.2, 3.4 seconds. ###Assistant: ",
    "Close your eyes, open your ears and you imagine only based on the sound that: now answer my question.",
    "Now answer my question based on what you have just seen and heard. It is blue, so no.",
    "[INST] <<SYS>> You are a helpful assistant. <</SYS>> Is it day or night? [/INST] It is night.",
)


def train_tokenizer(
    path: Path, sentences: Iterable[str] = SENTENCES * 20, *, num_pieces: int = NUM_PIECES, symbols: Sequence[str] = ()
) -> Path:
    """Write a BPE model with byte fallback and ``<unk> <s> </s>`` first; ``symbols`` become pieces of their own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=num_pieces,
        byte_fallback=True,
        split_digits=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=list(symbols),
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path
