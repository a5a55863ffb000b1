"""Decoding: the settings, the choice of each token, and the generation loop.

The loop replaces transformers' ``generate`` so that answers can be streamed and stopped in the caller's thread, and so
that the cache of one question can be reused for the next. Beam search uses ``generate``.
"""

# B answers, L prompt length, D decoder width, V vocabulary

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Generator, LongTensor, Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from video_llama.errors import CheckpointError
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

DEFAULT_NEW_TOKENS = 300
"""The reference's limit. Models with a small context use at most half of it."""
MAX_BEAMS = 64
"""Each beam costs as much as an answer. The server has its own, configurable limit."""
SMALLEST, LARGEST = 1e-20, 1e20
USABLE = f"{SMALLEST:g} to {LARGEST:g}"
"""Range of the factors applied to logits; beyond it they overflow float32 and sampling fails."""


@dataclass(frozen=True)
class Decoding:
    """Decoding settings: greedy by default, sampling if ``temperature``, ``top_p`` or ``top_k`` is set.

    Raises ValueError for values out of range. The reference's settings are ``Decoding.reference()``.
    """

    max_new_tokens: int | None = None
    """Maximum length of the answer, in tokens (default: 300, at most half the context)."""
    temperature: float | None = None
    """Sampling temperature; 0 is greedy."""
    top_p: float | None = None
    """Nucleus sampling: the smallest set of tokens whose probabilities add up to this value."""
    top_k: int | None = None
    """Sample from this many most likely tokens."""
    seed: int | None = None
    """Random seed for sampling (default: random; recorded in the answer)."""
    num_beams: int = 1
    """Number of beams; 1 disables beam search."""
    repetition_penalty: float = 1.0
    """Values above 1 discourage repetition. It applies to the answer only, as in the reference."""
    length_penalty: float = 1.0
    """Exponent of the length in the score of beams."""

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float | None, bool, str], ...] = (
            ("max_new_tokens", self.max_new_tokens, (self.max_new_tokens or 0) >= 1, "1 or more"),
            ("temperature", self.temperature, _is_usable(self.temperature or 1), f"0, or {USABLE}"),
            ("top_p", self.top_p, 0 < (self.top_p or 0) <= 1, "more than 0, at most 1"),
            ("top_k", self.top_k, (self.top_k or 0) >= 1, "1 or more"),
            ("seed", self.seed, 0 <= (self.seed or 0) < 2**63, "0 or more"),
            ("num_beams", self.num_beams, 1 <= self.num_beams <= MAX_BEAMS, f"1 to {MAX_BEAMS}"),
            ("repetition_penalty", self.repetition_penalty, _is_usable(self.repetition_penalty), USABLE),
        )
        for name, value, is_good, allowed in limits:
            if value is not None and not is_good:
                raise ValueError(f"{name} is {value}. Give {allowed}.")

    @staticmethod
    def reference() -> Decoding:
        """Return the sampling settings of the reference's demo (its ``top_k`` is the default of transformers)."""
        return Decoding(max_new_tokens=DEFAULT_NEW_TOKENS, temperature=1.0, top_p=0.9, top_k=50)

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are sampled."""
        return self.temperature != 0 and (self.temperature, self.top_p, self.top_k) != (None, None, None)

    def resolved(self, context_length: int) -> Decoding:
        """Return the settings with ``max_new_tokens`` for this context and, for sampling, a seed."""
        max_new_tokens = self.max_new_tokens or min(DEFAULT_NEW_TOKENS, context_length // 2)
        seed = random.SystemRandom().randrange(2**31) if self.seed is None and self.is_sampling else self.seed
        return replace(self, max_new_tokens=max_new_tokens, seed=seed)


class DecodingFields(TypedDict, total=False):
    """The fields of ``Decoding`` as keyword arguments."""

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    num_beams: int
    repetition_penalty: float
    length_penalty: float


def _is_usable(factor: float) -> bool:
    return SMALLEST <= factor <= LARGEST


class TokenChooser:
    """Choose one token per answer from logits [B, V]; keeps the chosen ids for the repetition penalty."""

    def __init__(self, decoding: Decoding, bos_id: int, num_answers: int, device: Any) -> None:
        self._ids = torch.full((num_answers, 1), bos_id, dtype=torch.long, device=device)
        self._warp = LogitsProcessorList()
        if decoding.repetition_penalty != 1.0:
            self._warp.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
        self._generator: Generator | None = None
        if decoding.is_sampling:
            assert decoding.seed is not None, "resolved() sets it"
            self._generator = torch.Generator(device).manual_seed(decoding.seed)
            self._warp.append(TemperatureLogitsWarper(float(decoding.temperature or 1.0)))
            if decoding.top_k is not None:
                self._warp.append(TopKLogitsWarper(decoding.top_k))
            if decoding.top_p is not None:
                self._warp.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Return the next token id of each answer, [B]."""
        scores: Tensor = self._warp(self._ids, logits_BV.float())  # type: ignore[arg-type]
        if self._generator is None:
            chosen_B1 = scores.argmax(dim=-1, keepdim=True)
        else:
            chosen_B1 = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)
        self._ids = torch.cat([self._ids, chosen_B1], dim=1)
        return chosen_B1[:, 0]


def token_steps(
    model: VideoLlamaForConditionalGeneration,
    embeds_BLD: Tensor,
    mask_BL: Tensor,
    cache: Any,
    choose: Callable[[Tensor], Tensor],
) -> Iterator[list[int]]:
    """Yield the next token id of every answer, without end; each ``next`` runs the model once.

    ``mask_BL`` covers the cached positions followed by ``embeds_BLD``; prompts are padded on the left. After the n-th
    ids are yielded, the cache holds the prompt and the n - 1 ids before them.
    """
    while True:
        chosen_B, ids = next_tokens(model, embeds_BLD, mask_BL, cache, choose)
        yield ids
        with torch.no_grad():
            embeds_BLD = model.get_input_embeddings()(chosen_B[:, None])
        mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), 1)], dim=1)


def next_tokens(
    model: VideoLlamaForConditionalGeneration,
    embeds_BLD: Tensor,
    mask_BL: Tensor,
    cache: Any,
    choose: Callable[[Tensor], Tensor],
    positions_BL: Tensor | None = None,
) -> tuple[Tensor, list[int]]:
    """Run the model once and return the next token id of every answer, as a tensor [B] on the device and as numbers.

    The other arguments are those of :func:`last_logits`; with ``positions_BL``, the mask can be any that attention
    accepts. The CPU reads the ids and whether the logits are finite in one
    copy. Sampling from NaN would be an error of the device, so such logits are replaced by zeros until they are
    reported. Raises CheckpointError if the model computes NaN.
    """
    logits_BV = _last_logits(model, embeds_BLD, mask_BL, cache, positions_BL)
    is_finite = logits_BV.isfinite().all()
    chosen_B = choose(torch.where(is_finite, logits_BV, 0))
    numbers: list[int] = torch.cat([chosen_B, is_finite.to(chosen_B.dtype)[None]]).tolist()
    if not numbers.pop():
        raise _not_finite(logits_BV)
    return chosen_B, numbers


def last_logits(model: VideoLlamaForConditionalGeneration, embeds_BLD: Tensor, mask_BL: Tensor, cache: Any) -> Tensor:
    """Return the logits [B, V] after the last embedding, and append keys and values of ``embeds_BLD`` to ``cache``.

    ``mask_BL`` also covers the cached positions; a single prompt has no padding. Raises CheckpointError if the model
    computes NaN.
    """
    logits_BV = _last_logits(model, embeds_BLD, mask_BL, cache)
    check_finite(logits_BV)
    return logits_BV


def append_to_cache(model: VideoLlamaForConditionalGeneration, embeds_1LD: Tensor, cache: Any, num_cached: int) -> None:
    """Append the keys and values of a part of one prompt to ``cache``, without computing logits."""
    end = num_cached + embeds_1LD.shape[1]
    positions = torch.arange(num_cached, end, device=embeds_1LD.device)[None]
    with torch.no_grad():
        model.model(inputs_embeds=embeds_1LD, position_ids=positions, cache=cache, use_cache=True)


def _last_logits(
    model: VideoLlamaForConditionalGeneration,
    embeds_BLD: Tensor,
    mask_BL: Tensor,
    cache: Any,
    positions_BL: Tensor | None = None,
) -> Tensor:
    if positions_BL is None:
        positions_BL = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)[:, -embeds_BLD.shape[1] :]
    with torch.no_grad():
        logits_BV: Tensor = model(
            inputs_embeds=embeds_BLD,
            attention_mask=None if len(mask_BL) == 1 else mask_BL,  # transformers reads whether a mask is all ones
            position_ids=positions_BL,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return logits_BV


def check_finite(logits_BV: Tensor) -> None:
    """Raise CheckpointError if the model computed NaN or infinity."""
    if not logits_BV.isfinite().all():
        raise _not_finite(logits_BV)


def _not_finite(logits_BV: Tensor) -> CheckpointError:
    return CheckpointError(
        f"The model computed NaN or infinity in {logits_BV.dtype}. Check its weights for NaN with `video-llama "
        "inspect`; if there are none, load it with dtype float32."
    )


def beam_ids(
    model: VideoLlamaForConditionalGeneration,
    embeds_BLD: Tensor,
    mask_BL: Tensor,
    decoding: Decoding,
    *,
    eos_id: int,
    pad_id: int,
    is_stopped: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """Return the token ids of the best beam of each prompt; they can continue after a stop string or end token.

    Raises CheckpointError if the model computes NaN.
    """

    def stopped(ids_BL: LongTensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor([is_stopped(row) for row in ids_BL.tolist()], device=ids_BL.device)

    def checked(ids_BL: LongTensor, scores_BV: Tensor) -> Tensor:
        if scores_BV.isnan().any():  # other processors set scores to -infinity
            check_finite(scores_BV)
        return scores_BV

    sampling: dict[str, Any] = {
        "temperature": decoding.temperature or 1.0,
        "top_k": decoding.top_k or 0,
        "top_p": decoding.top_p or 1.0,
    }
    with torch.random.fork_rng(enabled=decoding.is_sampling):
        if decoding.seed is not None and decoding.is_sampling:
            torch.manual_seed(decoding.seed)
        ids_BL = model.generate(
            inputs_embeds=embeds_BLD,
            attention_mask=mask_BL,
            num_beams=decoding.num_beams,
            do_sample=decoding.is_sampling,
            max_new_tokens=decoding.max_new_tokens,
            repetition_penalty=decoding.repetition_penalty,
            length_penalty=decoding.length_penalty,
            eos_token_id=eos_id,
            pad_token_id=pad_id,
            stopping_criteria=[stopped],
            stop_strings=None,
            logits_processor=[checked],
            **(sampling if decoding.is_sampling else {}),
        )
    rows: list[list[int]] = ids_BL.tolist()
    return rows
