"""Activation checkpointing and compilation do not change the results."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from video_llama.checkpoints.folder import read_model_folder
from video_llama.training.memory import compile_decoder
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


def test_recomputed_activations_give_the_same_losses(write_yaml: Write, losses: Losses) -> None:
    runs = [
        train_from_config(write_yaml(name=f"again{again}", run={"activation_checkpointing": again}), max_steps=4)
        for again in (False, True)
    ]
    assert losses(runs[0]) == losses(runs[1])  # with dropout: the random state is restored


@pytest.mark.slow
def test_compiled_layers_give_the_same_numbers(base: Path) -> None:
    ids = torch.arange(3, 23)[None]
    model = read_model_folder(base).model
    del model.model.language_model.layers[1:]  # one layer is compiled in half the time of two
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        compile_decoder(model)
        compiled = model(input_ids=ids).logits
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)  # fused kernels round differently
