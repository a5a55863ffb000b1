"""Pre-training of the language model: batches, losses and noise, and a few steps on the real architecture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from video_llama.conversation import IGNORE_INDEX, Tokenizer, pad_batch
from video_llama.miniature.dialogues import dialogue, dialogue_example
from video_llama.miniature.pretrain_language import (
    LanguagePhase,
    add_noise,
    make_batches,
    noisy_positions,
    pretrain_language,
    weighted_loss,
)
from video_llama.miniature.pretraining_loop import Pretraining
from video_llama.miniature.tokenizer import NUM_PIECES

FEW = Pretraining(num_steps=3, batch_size=4, peak_lr=1e-3, warmup_steps=1)


def test_batches_depend_only_on_seed_and_number(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    phase = LanguagePhase("few", 0, FEW, 0.5, 0.5, 0.1)
    first, again = (make_batches(tokenizer, phase, 1, 0) for _ in range(2))
    assert first == again
    assert first != make_batches(tokenizer, phase, 1, 1)
    assert all(len(batch) == 4 for batch in first)


def test_weighted_loss_separates_answers_from_other_text() -> None:
    ids = torch.tensor([[1, 2, 3, 0]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 3, IGNORE_INDEX]])
    mask = torch.tensor([[1, 1, 1, 0]])
    logits = torch.zeros(1, 4, 5)
    logits[0, 1, 3] = 100.0  # the answer is certain, the text before it is not
    answers, text = weighted_loss(logits, ids, labels, mask)
    assert answers.item() == pytest.approx(0.0, abs=1e-6)
    assert text.item() == pytest.approx(float(np.log(5)), rel=1e-5)


def test_noise_has_the_given_deviation_and_is_only_on_the_marked_tokens() -> None:
    marked = torch.tensor([[True, True, False]]).repeat(3, 1)
    deviations = torch.tensor([0.0, 1.0, 2.0])
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 5, 6)]
    noise, again, other = (add_noise(torch.zeros(3, 3, 4000), marked, deviations, each) for each in generators)
    assert torch.equal(noise, again)
    assert not torch.equal(noise, other)
    assert not noise[:, 2].any()
    assert torch.allclose(noise[:, :2].flatten(1).std(dim=1), deviations, atol=0.05)


def test_noise_is_not_on_answers_or_only_on_text_in_place_of_media(tokenizer_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_path)
    rng = np.random.default_rng(1)
    examples = [dialogue_example(tokenizer, dialogue(rng)) for _ in range(60)]
    rows = pad_batch(examples, 0)
    labels = torch.tensor(rows.labels)
    spans = torch.zeros_like(labels, dtype=torch.bool)
    for row, example in enumerate(examples):
        for span in example.spans:
            spans[row, span.start : span.start + span.length] = True
    questions = labels == IGNORE_INDEX
    has_medium = torch.tensor([bool(example.spans) for example in examples])
    nowhere, everywhere = torch.zeros(60, dtype=torch.bool), torch.ones(60, dtype=torch.bool)
    assert torch.equal(noisy_positions(examples, labels, nowhere), questions)
    alone = noisy_positions(examples, labels, everywhere)
    assert torch.equal(alone[has_medium], spans[has_medium])
    assert torch.equal(alone[~has_medium], questions[~has_medium])
    assert has_medium.any()
    assert not has_medium.all()
    half = noisy_positions(examples, labels, torch.arange(60) < 30)
    assert torch.equal(half[:30], alone[:30])
    assert torch.equal(half[30:], questions[30:])


def test_the_language_model_trains(tokenizer_path: Path, tmp_path: Path) -> None:
    first = LanguagePhase("first", 0, FEW, 0.5, 0.5, 0.1)
    phases = [first, replace(first, name="second", named_share=0.0, max_noise=3.0, media_noise_share=0.5)]
    model = pretrain_language(tokenizer_path, tmp_path, seed=0, phases=phases)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}
    assert model.config.vocab_size == NUM_PIECES
    assert not model.training
