"""Train the miniature's tokenizer: SentencePiece BPE with 640 pieces, on the miniature's own dialogues.

Output: ``tokenizer.model``, which ``conversation.Tokenizer`` loads. The stop mark ``###`` is a piece of its own.
Otherwise ``.###`` and ``?###`` would become pieces, and the end of an answer would not be found.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from video_llama.conversation import prompt_text
from video_llama.files import new_file
from video_llama.miniature.dialogues import caption_pair, dialogue, dialogue_conversation

NUM_PIECES = 640
NUM_DOCUMENTS = 12_000
TOKENIZER_CAPTION_SHARE = 0.1
STOP_MARK = "###"


def _texts(seed: int) -> Iterator[str]:
    rng = np.random.default_rng([seed, 20])
    for _ in range(NUM_DOCUMENTS):
        if rng.random() < TOKENIZER_CAPTION_SHARE:
            yield " ".join(caption_pair(rng))
        else:
            yield prompt_text(dialogue_conversation(dialogue(rng)).prompt())


def train_tokenizer(path: Path, seed: int) -> None:
    """Train the tokenizer (about 3 s) and write it to ``path``."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_texts(seed),
        model_writer=model,
        vocab_size=NUM_PIECES,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=[STOP_MARK],
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    with new_file(path) as unfinished:
        unfinished.write_bytes(model.getvalue())
