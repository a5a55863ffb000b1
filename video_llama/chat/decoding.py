"""How an answer is chosen token by token: the settings, the choice, and the loop that asks the model.

The loop is ours rather than transformers' ``generate`` so that an answer can be streamed and stopped in the caller's
own thread and the cache of one question serve the next. Beams go through ``generate``.
"""

# B answers, L prompt length, D decoder width, V vocabulary

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
"""As the reference; a model whose context is small answers with at most half of it."""
MAX_BEAMS = 64
"""Each costs as much as an answer of its own; the server's limit is a setting of its own."""
SMALLEST, LARGEST = 1e-20, 1e20
USABLE = f"{SMALLEST:g} to {LARGEST:g}"
"""Of what scores are divided or multiplied by: beyond, they leave float32, and nothing can be drawn."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: the likeliest each time, unless one of ``temperature``, ``top_p``, ``top_k`` is set.

    Then they are drawn, from a generator with ``seed``; without one a seed is drawn and recorded. A temperature of 0
    is greedy. ``num_beams`` above 1 searches over whole answers. The repetition penalty sees the answer so far, as
    the reference's does. Bad values are a ValueError. The reference's own settings are ``Decoding.reference()``.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    num_beams: int = 1
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0

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
        """What the reference's demo samples with (its ``top_k`` is its library's default)."""
        return Decoding(max_new_tokens=DEFAULT_NEW_TOKENS, temperature=1.0, top_p=0.9, top_k=50)

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature != 0 and (self.temperature, self.top_p, self.top_k) != (None, None, None)

    def resolved(self, context_length: int) -> Decoding:
        """With the numbers that were left open: ``max_new_tokens`` for this context, and a seed if one is needed."""
        max_new_tokens = self.max_new_tokens or min(DEFAULT_NEW_TOKENS, context_length // 2)
        seed = random.SystemRandom().randrange(2**31) if self.seed is None and self.is_sampling else self.seed
        return replace(self, max_new_tokens=max_new_tokens, seed=seed)


def _is_usable(factor: float) -> bool:
    return SMALLEST <= factor <= LARGEST


class TokenChooser:
    """Logits [B, V] in, one id per answer out; remembers the ids chosen, which the repetition penalty looks at."""

    def __init__(self, decoding: Decoding, bos_id: int, num_answers: int, device: Any) -> None:
        self._ids = torch.full((num_answers, 1), bos_id, dtype=torch.long, device=device)
        self._warp = LogitsProcessorList()
        if decoding.repetition_penalty != 1.0:
            self._warp.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
        self._generator: Generator | None = None
        if decoding.is_sampling:
            assert decoding.seed is not None, "resolved() draws one"
            self._generator = torch.Generator(device).manual_seed(decoding.seed)
            self._warp.append(TemperatureLogitsWarper(float(decoding.temperature or 1.0)))
            if decoding.top_k is not None:
                self._warp.append(TopKLogitsWarper(decoding.top_k))
            if decoding.top_p is not None:
                self._warp.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """The next id of each answer, [B]."""
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
    """Yield the next id of every answer, without end; each ``next`` asks the model once.

    ``mask_BL`` covers what the cache holds and ``embeds_BLD`` after it; prompts are padded on the left. When the n-th
    ids have been yielded the cache holds the prompt and the n - 1 before them.
    """
    while True:
        chosen_B = choose(last_logits(model, embeds_BLD, mask_BL, cache))
        yield chosen_B.tolist()
        with torch.no_grad():
            embeds_BLD = model.get_input_embeddings()(chosen_B[:, None])
        mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), 1)], dim=1)


def last_logits(model: VideoLlamaForConditionalGeneration, embeds_BLD: Tensor, mask_BL: Tensor, cache: Any) -> Tensor:
    """What may follow the last embedding, [B, V]; ``cache`` takes up the keys and values of ``embeds_BLD``.

    ``mask_BL`` covers what the cache holds as well. Raises CheckpointError where the model computes NaN.
    """
    positions = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)[:, -embeds_BLD.shape[1] :]
    with torch.no_grad():
        logits_BV: Tensor = model(
            inputs_embeds=embeds_BLD,
            attention_mask=mask_BL,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    if logits_BV.isnan().any():
        raise CheckpointError(
            f"The model computed values that are no numbers in {logits_BV.dtype}. See `video-llama inspect` for NaN in "
            "its weights; if there is none, load it with dtype float32."
        )
    return logits_BV


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
    """The ids of the best answers that ``num_beams`` beams find; they may run on behind a stop string or end token."""

    def stopped(ids_BL: LongTensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor([is_stopped(row) for row in ids_BL.tolist()], device=ids_BL.device)

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
            **(sampling if decoding.is_sampling else {}),
        )
    rows: list[list[int]] = ids_BL.tolist()
    return rows
