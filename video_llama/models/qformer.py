"""The sequence Q-Former: encodes T time steps of a medium to Q tokens of the decoder's width. Used by both branches.

Source: paper sections 2.1 and 2.2; encode_videoQformer_visual and encode_audioQformer in the reference's
models/video_llama.py. The transformer is BLIP-2's Q-Former from transformers, without its text inputs.
"""

# N media, T time steps, K tokens per step, S = T x K, Q queries, H Q-Former width, D decoder width

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class SequenceQFormer(nn.Module):
    """Position embedding of each step -> learned queries cross-attend to all tokens -> linear projection.

    Positions are step indices, not seconds, as in the published checkpoints.
    """

    def __init__(self, config: Blip2QFormerConfig, num_query_tokens: int, max_steps: int, output_size: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(max_steps, config.encoder_hidden_size)
        self.interpolates_positions = False
        """Whether more steps than positions are allowed; see ``positions``. Not part of the configuration."""
        self.query_tokens = nn.Parameter(torch.zeros(1, num_query_tokens, config.hidden_size))
        self.qformer = Blip2QFormerModel(config)
        self.language_projection = nn.Linear(config.hidden_size, output_size)

    def add_positions(self, steps_NTKH: Tensor) -> Tensor:
        """Add a step's position embedding to each of its tokens: [N, T, K, H] -> [N, T x K, H].

        Raises ValueError as ``positions``.
        """
        positions_TH = self.positions(steps_NTKH.shape[1], steps_NTKH.device)
        placed_NTKH: Tensor = steps_NTKH + positions_TH[None, :, None]
        return placed_NTKH.flatten(1, 2)

    def positions(self, num_steps: int, device: torch.device) -> Tensor:
        """Return the position embeddings [T, H] of ``num_steps`` steps.

        With ``interpolates_positions``, more steps than positions are spread evenly over the table, from its first
        position to its last one: step t is at the real-valued position t (P - 1) / (T - 1) of P, and its embedding is
        the linear interpolation of the two positions beside it. Otherwise more steps are a ValueError.
        """
        limit = self.position_embeddings.num_embeddings
        if num_steps <= limit:
            embeddings_TH: Tensor = self.position_embeddings(torch.arange(num_steps, device=device))
            return embeddings_TH
        if not self.interpolates_positions:
            raise ValueError(
                f"{num_steps} time steps, but this model has positions for {limit}. Sample fewer, or load the model "
                "with interpolate_positions."
            )
        places_T = torch.linspace(0, limit - 1, num_steps, device=device)
        low_T = places_T.floor().long().clamp(max=max(limit - 2, 0))
        share_T1 = (places_T - low_T)[:, None].to(self.position_embeddings.weight.dtype)
        after_T = (low_T + 1).clamp(max=limit - 1)
        between_TH: Tensor = torch.lerp(self.position_embeddings(low_T), self.position_embeddings(after_T), share_T1)
        return between_TH

    def query(self, steps_NSH: Tensor, output_attentions: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the Q-Former on tokens with positions: [N, S, H] -> [N, Q, H].

        Also returns the cross-attentions of each layer if ``output_attentions``, otherwise an empty tuple.
        """
        outputs = self.qformer(
            query_embeds=self.query_tokens.expand(len(steps_NSH), -1, -1),
            encoder_hidden_states=steps_NSH,
            output_attentions=output_attentions,
        )
        return outputs.last_hidden_state, outputs.cross_attentions or ()

    def forward(self, *sequences_NTKH: Tensor) -> Tensor:
        """Encode one or more sequences of steps [N, T, K, H] to [N, Q, D]. Positions start at 0 in each sequence.

        The joint audio-video path passes two sequences: the frames' query tokens, and the audio clips with one token
        per step.
        """
        steps_NSH = torch.cat([self.add_positions(sequence) for sequence in sequences_NTKH], dim=1)
        hidden_NQH, _ = self.query(steps_NSH)
        tokens: Tensor = self.language_projection(hidden_NQH)
        return tokens
