"""What generation counts as repeated: the answer's own tokens and the begin token, as in the reference.

Source: the reference calls ``generate`` of transformers 4.28 with embeddings alone, whose processors then see BOS and
what was generated (golden ``cases.json``: gen_image_vicuna_rep, warp). With ``input_ids`` today's transformers counts
the prompt as well; with embeddings alone it skips as many of the answer's tokens as the row has padding on the left.
"""

# B rows (batch x beams), L ids so far, V vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


class AnswerRepetitionPenalty(LogitsProcessor):
    """Divides positive and multiplies negative scores of BOS and of the ids after the first ``prompt_length``."""

    def __init__(self, penalty: float, prompt_length: int, bos_token_id: int | None) -> None:
        if penalty <= 0:
            raise ValueError(f"repetition_penalty is {penalty}; it has to be above 0, and 1.0 changes nothing.")
        self.penalty = penalty
        self.prompt_length = prompt_length
        self.bos_token_id = bos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``input_ids`` [B, L], ``scores`` [B, V] -> [B, V]."""
        seen_BL = input_ids[:, self.prompt_length :]
        if self.bos_token_id is not None:
            seen_BL = torch.nn.functional.pad(seen_BL, (1, 0), value=self.bos_token_id)
        chosen_BL = scores.gather(1, seen_BL)
        penalised_BL = torch.where(chosen_BL < 0, chosen_BL * self.penalty, chosen_BL / self.penalty)
        return scores.scatter(1, seen_BL, penalised_BL)


def with_answer_penalty(
    kwargs: dict[str, Any], settings: GenerationConfig | None, prompt_length: int, bos_token_id: int | None
) -> dict[str, Any]:
    """``generate``'s keyword arguments with the repetition penalty, wherever it was set, in the form above.

    ``settings`` holds where the arguments are silent; ``prompt_length`` is how many ids ``generate`` starts with.
    """
    penalty = kwargs.get("repetition_penalty", getattr(settings, "repetition_penalty", None))
    if penalty is None or penalty == 1.0:
        return kwargs
    given = kwargs.get("logits_processor") or []
    processors = [AnswerRepetitionPenalty(penalty, prompt_length, bos_token_id), *given]
    return {**kwargs, "repetition_penalty": 1.0, "logits_processor": LogitsProcessorList(processors)}
