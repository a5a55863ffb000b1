from typing import Any

import pytest
import torch

from video_llama.models.qformer import SequenceQFormer


def qformer(config: Any, **overrides: Any) -> SequenceQFormer:
    torch.manual_seed(4)
    settings = config(**overrides)
    made = SequenceQFormer(
        settings.video_qformer_config, settings.num_video_query_tokens, settings.max_frame_pos, output_size=32
    )
    torch.nn.init.normal_(made.query_tokens)
    return made.eval()


def test_the_number_of_tokens_does_not_depend_on_the_steps(config: Any) -> None:
    made = qformer(config)
    for num_steps in (1, 3, 6):
        assert made(torch.randn(2, num_steps, 3, 24)).shape == (2, 5, 32)


def test_more_steps_than_positions_are_refused_with_the_limit(config: Any) -> None:
    with pytest.raises(ValueError, match=r"7 time steps, but this model has positions for 6. Sample fewer"):
        qformer(config)(torch.zeros(1, 7, 3, 24))


def test_the_order_of_steps_matters_and_the_order_within_a_step_does_not(config: Any) -> None:
    made, steps = qformer(config), torch.randn(1, 4, 3, 24)
    tokens = made(steps)
    assert (made(steps.flip(1)) - tokens).abs().max() > 1e-3
    torch.testing.assert_close(made(steps.flip(2)), tokens, rtol=0, atol=1e-5)  # a sum in another order


def test_each_sequence_starts_at_position_0(config: Any) -> None:
    made, frames, clips = qformer(config), torch.randn(1, 2, 3, 24), torch.randn(1, 2, 1, 24)
    both = torch.cat([made.add_positions(frames), made.add_positions(clips)], dim=1)
    expected = made.language_projection(made.query(both)[0])
    torch.testing.assert_close(made(frames, clips), expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_fusion_head_layers(config: Any, layers: int) -> None:
    made = qformer(config, fusion_head_layers=layers)
    assert len(made.qformer.encoder.layer) == layers
    assert all(hasattr(layer, "crossattention") for layer in made.qformer.encoder.layer)


def test_cross_attentions_are_returned_on_request(config: Any) -> None:
    settings = config()
    settings.video_qformer_config._attn_implementation = "eager"  # only eager attention has its weights to give
    made = SequenceQFormer(settings.video_qformer_config, 5, 6, 32).eval()
    _, attentions = made.query(torch.randn(1, 12, 24), output_attentions=True)
    assert [tuple(attention.shape) for attention in attentions] == [(1, 3, 5, 12)] * 2


def test_interpolated_positions(config: Any) -> None:
    """Linear between the positions, from the first to the last; up to the limit they are unchanged."""
    made = qformer(config)
    table_PH = made.position_embeddings.weight.detach()
    made.interpolates_positions = True
    torch.testing.assert_close(made.positions(6, torch.device("cpu")), table_PH, rtol=0, atol=0)
    eleven_TH = made.positions(11, torch.device("cpu")).detach()
    torch.testing.assert_close(eleven_TH[::2], table_PH)
    torch.testing.assert_close(eleven_TH[1::2], (table_PH[1:] + table_PH[:-1]) / 2)
    for count in (7, 8, 50):
        expected = torch.nn.functional.interpolate(table_PH.T[None], size=count, mode="linear", align_corners=True)
        torch.testing.assert_close(made.positions(count, torch.device("cpu")).detach(), expected[0].T)
    assert made(torch.randn(2, 50, 3, 24)).shape == (2, 5, 32)


def test_a_table_of_one_position(config: Any) -> None:
    made = qformer(config, max_frame_pos=1)
    made.interpolates_positions = True
    torch.testing.assert_close(
        made.positions(3, torch.device("cpu")), made.position_embeddings.weight.expand(3, -1), rtol=0, atol=0
    )
