"""The likelihood of given answers: the log-probability of each of their tokens after a prompt with its media.

The prompt is computed once; its keys and values are shared by all answers.
"""

# N answers, L prompt length, S answer length, D decoder width, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from video_llama.chat.decoding import check_finite, last_logits
from video_llama.chat.engine import Engine, PreparedTurn
from video_llama.conversation import common_length, scored_answer
from video_llama.errors import ContextLengthError


@dataclass(frozen=True)
class AnswerScore:
    """Log-probabilities (natural logarithm) of the tokens of a given answer, without its end symbol."""

    text: str
    log_probs: tuple[float, ...]
    is_greedy: bool
    """Whether greedy decoding begins with these tokens."""

    @property
    def sum(self) -> float:
        """Log-probability of the answer."""
        return sum(self.log_probs)

    @property
    def mean(self) -> float:
        """Mean log-probability of a token, which does not depend on the length of the answer."""
        return self.sum / len(self.log_probs)


def answer_scores(engine: Engine, turn: PreparedTurn, answers: Sequence[str]) -> list[AnswerScore]:
    """Return the scores of ``answers`` to the question of ``turn``, in order.

    Raises PromptError for an empty answer and ContextLengthError for one that does not fit.
    """
    config, prompt = engine.config, turn.prompt.input_ids
    counts = {"num_video_tokens": config.num_video_query_tokens, "num_audio_tokens": config.num_audio_query_tokens}
    encoded = [scored_answer(engine.tokenizer, turn.shown, answer, **counts).input_ids for answer in answers]
    if not encoded:
        return []
    longest = max(map(len, encoded))
    if longest > engine.context_length:
        raise ContextLengthError(
            f"A prompt with its answer has {longest:,} tokens; the model's context length is "
            f"{engine.context_length:,}. Shorten the question or the answers."
        )
    start = min(common_length(prompt, ids) for ids in encoded)
    tails = [ids[start:] for ids in encoded]
    log_probs_NSV = _log_probs(engine, turn, tails, start)
    scores = []
    for answer, tail, log_probs_SV in zip(answers, tails, log_probs_NSV, strict=True):
        steps = log_probs_SV[: len(tail)]
        chosen = torch.tensor(tail, device=steps.device)
        values = steps.gather(1, chosen[:, None])[:, 0]
        is_greedy = bool((steps.argmax(dim=-1) == chosen).all())
        scores.append(AnswerScore(answer, tuple(values.tolist()), is_greedy))
    return scores


def _log_probs(engine: Engine, turn: PreparedTurn, tails: Sequence[Sequence[int]], start: int) -> Tensor:
    """Return log-probabilities [N, S, V]: before each token of each tail, which begins at position ``start``."""
    embeds_1LD, mask_1L = engine.embed([turn])
    cache = DynamicCache()
    first_1V = last_logits(engine.model, embeds_1LD[:, :start], mask_1L[:, :start], cache)
    num_answers, length = len(tails), max(map(len, tails)) - 1
    logits_NSV = first_1V[:, None].expand(num_answers, -1, -1)
    if length:
        cache.batch_repeat_interleave(num_answers)
        following_NSV = _following_logits(engine, tails, length, start, cache)
        logits_NSV = torch.cat([logits_NSV, following_NSV], dim=1)
    return logits_NSV.float().log_softmax(dim=-1)


def _following_logits(
    engine: Engine, tails: Sequence[Sequence[int]], length: int, start: int, cache: DynamicCache
) -> Tensor:
    """Return the logits [N, S - 1, V] after each token but the last, padded on the right."""
    device, pad_id = engine.model.device, engine.tokenizer.pad_id
    inputs = [list(tail[:-1]) for tail in tails]
    ids = torch.tensor([row + [pad_id] * (length - len(row)) for row in inputs], device=device)
    mask = torch.tensor([[1] * (start + len(row)) + [0] * (length - len(row)) for row in inputs], device=device)
    with torch.no_grad():
        logits: Tensor = engine.model(
            inputs_embeds=engine.model.get_input_embeddings()(ids),
            attention_mask=mask,
            position_ids=torch.arange(start, start + length, device=device).expand(len(tails), -1),
            cache=cache,
            use_cache=True,
        ).logits
    check_finite(logits.masked_fill(mask[:, start:, None] == 0, 0))
    return logits
