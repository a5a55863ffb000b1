"""A repetition penalty for BOS and the answer's tokens, as in the reference.

The reference calls ``generate`` of transformers 4.28 with embeddings only, so that its logits processors get BOS and
the generated ids (golden ``cases.json``: gen_image_vicuna_rep, warp). Current versions of transformers include the
prompt if ``input_ids`` are given; with embeddings only, they skip as many answer tokens as the row has left padding.
"""

# B rows (batch x beams), L ids so far, V vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


class AnswerRepetitionPenalty(LogitsProcessor):
    """Logits processor: divides positive and multiplies negative scores of BOS and of the ids after the prompt.

    Args:
        penalty: values above 1 discourage repetition; 1.0 has no effect.
        prompt_length: number of leading ids that are not penalised.
        bos_token_id: id that is always penalised, or None.

    Raises ValueError unless ``penalty`` is positive.
    """

    def __init__(self, penalty: float, prompt_length: int, bos_token_id: int | None) -> None:
        if penalty <= 0:
            raise ValueError(f"repetition_penalty is {penalty}. Use a value above 0; 1.0 has no effect.")
        self.penalty = penalty
        self.prompt_length = prompt_length
        self.bos_token_id = bos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the penalised scores [B, V] of ``scores`` [B, V], given ``input_ids`` [B, L]."""
        seen_BL = input_ids[:, self.prompt_length :]
        if self.bos_token_id is not None:
            seen_BL = torch.nn.functional.pad(seen_BL, (1, 0), value=self.bos_token_id)
        chosen_BL = scores.gather(1, seen_BL)
        penalised_BL = torch.where(chosen_BL < 0, chosen_BL * self.penalty, chosen_BL / self.penalty)
        return scores.scatter(1, seen_BL, penalised_BL)


def with_answer_penalty(
    kwargs: dict[str, Any], settings: GenerationConfig | None, prompt_length: int, bos_token_id: int | None
) -> dict[str, Any]:
    """Return ``generate``'s keyword arguments with ``repetition_penalty`` replaced by an `AnswerRepetitionPenalty`.

    ``settings`` supplies the penalty if the arguments do not. ``prompt_length`` is the number of ids with which
    ``generate`` starts.
    """
    penalty = kwargs.get("repetition_penalty", getattr(settings, "repetition_penalty", None))
    if penalty is None or penalty == 1.0:
        return kwargs
    given = kwargs.get("logits_processor") or []
    processors = [AnswerRepetitionPenalty(penalty, prompt_length, bos_token_id), *given]
    return {**kwargs, "repetition_penalty": 1.0, "logits_processor": LogitsProcessorList(processors)}
