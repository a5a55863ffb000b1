"""Pre-train the miniature's language model: a small LLaMA that answers questions about media described in text.

Input: random dialogues. Output: a ``LlamaForCausalLM``. It is frozen while the branches are trained, as in the paper;
the branches learn output tokens that have the effect of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from transformers import LlamaForCausalLM

from video_llama.conversation import IGNORE_INDEX, Tokenizer, TrainingExample, pad_batch
from video_llama.miniature.configuration import miniature_config
from video_llama.miniature.dialogues import caption_document, caption_pair, dialogue, dialogue_example
from video_llama.miniature.pretraining_loop import Pretraining, StepLoss, fit, half_precision
from video_llama.miniature.questions import NAMED_SHARE

CAPTION_SHARE = 0.1  # share of documents that are captions without a question, as in stage 1 of both branches
SOUND_CAPTION_SHARE = 0.5  # share of captions that are about sound
POOL_BATCHES = 4  # number of batches whose documents are sorted by length together, to reduce padding
NOISE_SEED = 1_000_003  # the noise seed of a step is this times (seed + 1), plus the step
PAD_MULTIPLE = 16  # few different lengths, because oneDNN caches one kernel per shape


@dataclass(frozen=True)
class LanguagePhase:
    """One phase of the language model's pre-training, with its mixture of documents."""

    name: str
    stream: int
    """Second number of the seed, so that every phase draws other documents."""
    recipe: Pretraining
    two_part_share: float
    """Share of scenes with two shapes, one after the other."""
    hard_share: float
    """Share of questions that are of a hard kind (``HARD_KINDS_OF``)."""
    text_weight: float
    """Weight of the loss on tokens that are not answers."""
    named_share: float = NAMED_SHARE
    """Share of the questions about the colour of one of two shapes that give the shape by its name."""
    max_noise: float = 0.0
    """Largest standard deviation of the Gaussian noise on embeddings, relative to that of the word embeddings. Each
    document has its own, between 0 and this. Answers have no noise. The output tokens of a branch only approximate word
    embeddings; the noise prepares the model for them."""
    media_noise_share: float = 0.0
    """Share of documents with a medium that have noise only on the text that describes the media: in inference, only
    the tokens of the branches are inexact. These are the documents with the weakest noise."""


LANGUAGE = (
    LanguagePhase("language", 21, Pretraining(1600, 40, peak_lr=2e-3, weight_decay=0.05), 0.5, 0.5, 0.1),
    # The text outside the answers is unpredictable. With less weight on it, questions that need two facts are learned
    # sooner.
    LanguagePhase("language_hard", 26, Pretraining(900, 40, peak_lr=1.5e-3, weight_decay=0.05), 0.5, 0.7, 0.02),
    # Which of two colours belongs to which shape is learned last.
    LanguagePhase("language_two_part", 27, Pretraining(900, 40, peak_lr=1.5e-3, weight_decay=0.05), 0.8, 0.8, 0.02),
    # All kinds again, with more of the easy ones.
    LanguagePhase("language_all", 29, Pretraining(1500, 40, peak_lr=1.5e-3, weight_decay=0.05), 0.75, 0.25, 0.02),
    LanguagePhase(
        "language_noise",
        31,
        Pretraining(1200, 40, peak_lr=1.2e-3, weight_decay=0.05),
        0.6,
        0.4,
        0.02,
        named_share=0.0,
        max_noise=3.0,
        media_noise_share=0.5,
    ),
)


def _document(rng: np.random.Generator, tokenizer: Tokenizer, phase: LanguagePhase) -> TrainingExample:
    if rng.random() < CAPTION_SHARE:
        return caption_document(tokenizer, *caption_pair(rng, has_audio=rng.random() < SOUND_CAPTION_SHARE))
    drawn = dialogue(
        rng, two_part_share=phase.two_part_share, hard_share=phase.hard_share, named_share=phase.named_share
    )
    return dialogue_example(tokenizer, drawn)


def make_batches(tokenizer: Tokenizer, phase: LanguagePhase, seed: int, pool: int) -> list[list[TrainingExample]]:
    """Return the batches of ``POOL_BATCHES`` steps: documents of similar length per batch, batches in random order."""
    size = phase.recipe.batch_size
    rng = np.random.default_rng([seed, phase.stream, pool])
    drawn = (_document(rng, tokenizer, phase) for _ in range(size * POOL_BATCHES))
    documents = sorted(drawn, key=lambda document: len(document.input_ids))
    return [documents[index * size : (index + 1) * size] for index in rng.permutation(POOL_BATCHES)]


def weighted_loss(logits: Tensor, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of answer tokens and that of all other tokens.

    ``logits`` is [B, L, vocabulary]; ``input_ids``, ``labels`` and ``attention_mask`` are [B, L].
    """
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
    )
    is_answer = (labels[:, 1:] != IGNORE_INDEX).flatten()
    is_text = attention_mask[:, 1:].flatten().bool() & ~is_answer
    return losses[is_answer].mean(), losses[is_text].mean()


def noisy_positions(examples: Sequence[TrainingExample], labels: Tensor, is_media_alone: Tensor) -> Tensor:
    """Return which tokens get noise, bool [B, L].

    These are all tokens that are not answers; in the rows ``is_media_alone`` [B] that have a medium, only the tokens of
    the text that describes it. ``labels`` is [B, L].
    """
    is_noisy = labels == IGNORE_INDEX
    for row, example in enumerate(examples):
        if example.spans and is_media_alone[row]:
            is_noisy[row] = False
            for span in example.spans:
                is_noisy[row, span.start : span.start + span.length] = True
    return is_noisy


def add_noise(embeddings: Tensor, is_noisy: Tensor, deviations: Tensor, generator: Generator) -> Tensor:
    """Add Gaussian noise to the marked tokens: embeddings [B, L, D], is_noisy [B, L], deviations [B] -> [B, L, D]."""
    noise = torch.randn(embeddings.shape, generator=generator) * deviations[:, None, None]
    return embeddings + noise * is_noisy[:, :, None]


def pretrain_language(
    tokenizer_path: Path, root: Path, seed: int, phases: Sequence[LanguagePhase] = LANGUAGE
) -> LlamaForCausalLM:
    """Train the language model in several phases, each with a folder below ``root``. Finished phases are loaded."""
    tokenizer = Tokenizer(tokenizer_path)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(miniature_config().text_config)
    for phase in phases:
        fit(phase.name, model, _step_loss(model, tokenizer, phase, seed), phase.recipe, root / phase.name)
    return model


def _step_loss(model: LlamaForCausalLM, tokenizer: Tokenizer, phase: LanguagePhase, seed: int) -> StepLoss:
    @lru_cache(maxsize=1)
    def batches(pool: int) -> list[list[TrainingExample]]:
        return make_batches(tokenizer, phase, seed, pool)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        examples = batches(step // POOL_BATCHES)[step % POOL_BATCHES]
        rows = pad_batch(examples, 0, multiple_of=PAD_MULTIPLE)
        ids, labels, mask = map(torch.tensor, (rows.input_ids, rows.labels, rows.attention_mask))
        words = model.model.embed_tokens
        embeddings = words(ids)
        if phase.max_noise:
            max_noise = phase.max_noise * words.weight.detach().std().item()
            generator = torch.Generator().manual_seed(NOISE_SEED * (seed + 1) + step)
            strengths = torch.rand(len(examples), generator=generator)
            is_noisy = noisy_positions(examples, labels, strengths < phase.media_noise_share)
            embeddings = add_noise(embeddings, is_noisy, strengths * max_noise, generator)
        with half_precision():
            logits = model(inputs_embeds=embeddings, use_cache=False).logits
        answers, text = weighted_loss(logits, ids, labels, mask)
        figures = {"answers": answers.item(), "text": text.item(), "tokens": float(ids.numel())}
        return answers + phase.text_weight * text, figures

    return step_loss
