"""Initial values of the parts that training creates."""

import pytest
import torch

from video_llama.checkpoints.initialization import INITIALIZABLE_PARTS, initialize
from video_llama.models.configuration import VideoLlamaConfig


def test_initial_values_have_the_distributions_of_the_reference() -> None:
    """BERT: normal, 0.02. torch: nn.Embedding normal, 1; nn.Linear uniform, with bound sqrt(1/768)."""
    config = VideoLlamaConfig(text_config={"hidden_size": 512, "intermediate_size": 64})
    initialized = initialize(config, [part for part in INITIALIZABLE_PARTS if ".video_" in part], seed=3)
    deviations = {
        "query_tokens": 0.02,
        "position_embeddings.weight": 1.0,
        "qformer.encoder.layer.1.crossattention.attention.key.weight": 0.02,
        "language_projection.weight": (1 / 768 / 3) ** 0.5,
    }
    for name, deviation in deviations.items():
        assert initialized[f"model.video_qformer.{name}"].std().item() == pytest.approx(deviation, rel=0.05), name
    alone = initialize(config, ["model.video_qformer.query_tokens"], seed=3)
    assert list(alone) == ["model.video_qformer.query_tokens"]
    assert torch.equal(alone["model.video_qformer.query_tokens"], initialized["model.video_qformer.query_tokens"])
