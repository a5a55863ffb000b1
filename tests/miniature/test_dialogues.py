"""Dialogues: their slots, arguments and vocabulary; their token ids, labels and spans."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.conversation import IGNORE_INDEX, Tokenizer
from video_llama.miniature import dialogues
from video_llama.miniature.dialogues import caption_document, caption_pair, dialogue, dialogue_example
from video_llama.miniature.questions import facts
from video_llama.miniature.tokenizer import STOP_MARK

SEEDS = st.integers(0, 2**32 - 1)


def test_only_answers_have_labels(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = dialogue(rng)
        example = dialogue_example(tokenizer, drawn)
        learnt = tokenizer.decode([label for label in example.labels if label != IGNORE_INDEX])
        assert [part.strip() for part in learnt.split(STOP_MARK)[:-1]] == [qa.answer for qa in drawn.turns]
    words, caption = caption_pair(rng)
    example = caption_document(tokenizer, words, caption)
    assert tokenizer.decode([label for label in example.labels if label != IGNORE_INDEX]) == caption + STOP_MARK


def test_spans_are_the_text_that_describes_the_media(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    rng = np.random.default_rng(0)
    documents = [(drawn := dialogue(rng), dialogue_example(tokenizer, drawn)) for _ in range(40)]
    assert {drawn.medium for drawn, _ in documents} == {"audio_video", "video", "image", "audio", "text"}
    for drawn, example in documents:
        texts = [words for words in (drawn.sound_words, drawn.video_words, drawn.image_words) if words]
        marked = [tokenizer.decode(example.input_ids[span.start : span.start + span.length]) for span in example.spans]
        assert [words.strip() for words in marked] == texts
    words, caption = caption_pair(rng)
    example = caption_document(tokenizer, words, caption)
    [span] = example.spans
    assert (span.start, tokenizer.decode(example.input_ids[1 : 1 + span.length]).strip()) == (1, words)
    assert example.labels[1 + span.length] != IGNORE_INDEX  # the caption follows directly


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_dialogues_have_the_text_of_their_media(seed: int) -> None:
    document = dialogue(np.random.default_rng(seed))
    assert document == dialogue(np.random.default_rng(seed))
    assert 1 <= len(document.turns) <= 3
    assert (document.video_words is not None) == (document.medium in ("video", "audio_video"))
    assert (document.image_words is not None) == (document.medium == "image")
    assert (document.sound_words is not None) == (document.medium in ("audio", "audio_video"))
    assert document.medium == "video" or not document.frame_seconds


def test_dialogues_follow_their_arguments() -> None:
    rng = np.random.default_rng(0)
    documents = [dialogue(rng, max_turns=1, hard_share=1.0, media_shares={"video": 1.0}) for _ in range(100)]
    assert {document.turns[0].kind for document in documents} == {"order", "yes_no", "colour", "shape"}
    singles = [dialogue(rng, two_part_share=0.0, media_shares={"video": 1.0}) for _ in range(50)]
    assert all(len(facts(document.video_words or "", "shape")) == 1 for document in singles)
    both = [dialogue(rng) for _ in range(600)]
    matches = [qa.answer for document in both for qa in document.turns if qa.kind == "match" and "hear a" in qa.answer]
    assert 0.25 < np.mean([answer.endswith("yes.") for answer in matches]) < 0.7
    assert {document.medium for document in both} == set(dialogues.MEDIA_SHARES)


def test_the_vocabulary_stays_small() -> None:
    rng = np.random.default_rng(0)
    words: set[str] = set()
    for _ in range(1500):
        document = dialogue(rng)
        texts = [document.video_words or "", document.sound_words or "", document.image_words or ""]
        texts += [text for qa in document.turns for text in (qa.question, qa.answer)]
        words |= {word.strip(".,?!").lower() for text in texts for word in text.split()}
    assert len(words) < 220
