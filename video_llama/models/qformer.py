"""T time steps of a medium in, N tokens of the decoder's width out; the video and the audio branch share this.

Source: paper section 2.1 and 2.2; the reference's encode_videoQformer_visual and encode_audioQformer in
models/video_llama.py. The transformer itself is BLIP-2's Q-Former from transformers, without its text side.
"""

# N media, T time steps, K tokens per step, S = T x K, Q queries, H Q-Former width, D decoder width

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class SequenceQFormer(nn.Module):
    """Each step's tokens get the embedding of its ordinal; learned queries read them all; a linear layer follows.

    Positions are ordinals, not seconds: the same as the published checkpoints were trained with.
    """

    def __init__(self, config: Blip2QFormerConfig, num_query_tokens: int, max_steps: int, output_size: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(max_steps, config.encoder_hidden_size)
        self.query_tokens = nn.Parameter(torch.zeros(1, num_query_tokens, config.hidden_size))
        self.qformer = Blip2QFormerModel(config)
        self.language_projection = nn.Linear(config.hidden_size, output_size)

    def add_positions(self, steps_NTKH: Tensor) -> Tensor:
        """Add the ordinal's embedding to every token of a step: [N, T, K, H] -> [N, T x K, H]."""
        num_steps, limit = steps_NTKH.shape[1], self.position_embeddings.num_embeddings
        if num_steps > limit:
            raise ValueError(f"{num_steps} time steps, and this model has positions for {limit}. Sample fewer.")
        positions_TH = self.position_embeddings(torch.arange(num_steps, device=steps_NTKH.device))
        placed_NTKH: Tensor = steps_NTKH + positions_TH[None, :, None]
        return placed_NTKH.flatten(1, 2)

    def query(self, steps_NSH: Tensor, output_attentions: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Let the queries read the positioned tokens: [N, S, H] -> [N, Q, H], and the cross-attentions if asked for."""
        outputs = self.qformer(
            query_embeds=self.query_tokens.expand(len(steps_NSH), -1, -1),
            encoder_hidden_states=steps_NSH,
            output_attentions=output_attentions,
        )
        return outputs.last_hidden_state, outputs.cross_attentions or ()

    def forward(self, *sequences_NTKH: Tensor) -> Tensor:
        """Read one or more sequences of steps, each with positions of its own from 0, and return [N, Q, D].

        The joint audio-video path gives two: the frames' query tokens and the clips' vectors as one token a step.
        """
        steps_NSH = torch.cat([self.add_positions(sequence) for sequence in sequences_NTKH], dim=1)
        hidden_NQH, _ = self.query(steps_NSH)
        tokens: Tensor = self.language_projection(hidden_NQH)
        return tokens
