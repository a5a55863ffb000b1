"""A training step of each published recipe at 7B and 13B, on a device that holds no data.

An operation that mixes devices or data types is an error here, as it is on a GPU. ``Waits`` counts where the CPU waits
for the device. The run of tests/models/test_simulated_process.py includes this file.

| recipe | sizes | step |
|---|---|---|
| each of the four | 7b, 13b | bf16 autocast, cached features |
| each of the four | 7b, 13b | fp16 autocast with loss scaling, frames, activation checkpointing |
| visionbranch_stage2_finetune | 7b, 13b | bf16 autocast, frames, activation checkpointing, LoRA on a 4-bit decoder |
"""

import importlib
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.factories.simulated import OWN_PROCESS, Waits, device_or_skip, simulated_config, simulation
from video_llama.config import load_config
from video_llama.models.simulation import fill_with_fakes
from video_llama.training.config import TrainConfig
from video_llama.training.distributed import World
from video_llama.training.lora import add_lora
from video_llama.training.planned_batches import planned_batches
from video_llama.training.run import freeze_others
from video_llama.training.stages import stage_of

pytestmark = [pytest.mark.slow, OWN_PROCESS]
DEVICE = device_or_skip()

dry_run = importlib.import_module("video_llama.training.dry_run")
ROOT = Path(__file__).resolve().parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "train_configs").glob("*.yaml"))}
ROWS, TOKENS, BATCHES = 2, 64, 2
"""Rows of a batch, tokens of a row, batches of a step."""

CACHED = ("run.dtype=bf16", "run.cache_features=true")
FROM_FRAMES = ("run.dtype=fp16", "run.cache_features=false", "run.activation_checkpointing=true")
QLORA = (
    *("run.dtype=bf16", "run.cache_features=false", "run.activation_checkpointing=true"),
    *("model.lora.r=8", "model.quantization=int4"),
)
CASES = [
    *((name, size, mode) for mode in (CACHED, FROM_FRAMES) for size in ("7b", "13b") for name in RECIPES),
    *(("visionbranch_stage2_finetune", size, QLORA) for size in ("7b", "13b")),
]

READS = {
    "trainer.step": 1,
    "trainer.update": 1,
    "import_utils.torch_compilable_check": 2 * BATCHES,
    "masking_utils.find_packed_sequence_indices": BATCHES,
}
"""In this order: the losses of the batches, once for a step; the norm of the gradients, which is logged and must be
finite, once for a step; whether placeholders and media agree, once for each modality of a batch, because a wrong batch
must be an error; in transformers, whether the positions are those of several sequences in a row, once for a batch.
GradScaler (fp16) reads nothing: fused AdamW skips an overflow on the device."""
UPLOADS = {"loading.to": 2 * BATCHES, "loading.<lambda>": BATCHES}
"""The token ids, the labels and the media of each batch."""
FORMS = {
    ("visionbranch", True): "frame_tokens",
    ("visionbranch", False): "pixel_values_videos",
    ("audiobranch", True): "clip_embeddings",
    ("audiobranch", False): "audio_pixel_values",
}
"""(branch, whether features are cached) -> form of the media."""


@pytest.mark.parametrize(("name", "size", "changes"), CASES)
def test_a_step_of_a_recipe(name, size, changes):
    overrides = ["run.device=cuda", f"run.accum_grad_iters={BATCHES}", f"run.batch_size_train={ROWS}", *changes]
    config = load_config(TrainConfig, RECIPES[name], overrides)
    stage = stage_of(config.model)
    with mock.patch.object(dry_run, "published_config", simulated_config):
        model, _ = dry_run.starting_model(config, name, stage, size, DEVICE)
    [batch, *_] = planned_batches(config, None, model.config, stage, TOKENS)
    [media] = batch.media
    assert media.form == FORMS[name.partition("_")[0], config.run.cache_features]
    if config.model.lora is not None:
        add_lora(model, config.model.lora, config.run.seed)
    trained = freeze_others(model, stage)
    with simulation():
        fill_with_fakes(model, DEVICE)
        trainer = dry_run.planned_trainer(model, config, World(0, 1, DEVICE))
        check_step(trainer, batch, {"bf16": torch.bfloat16, "fp16": torch.float16}[config.run.dtype], trained)


def check_step(trainer, batch, low, trained):
    outputs, gradients = [], []
    trainer.model.register_forward_hook(lambda _model, _arguments, output: outputs.append(output))
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend((each.grad.device, each.grad.dtype) for each in trainer.trained)
    )
    with Waits() as waits:
        dry_run.planned_step(trainer, batch)
    assert waits.reads == READS
    assert waits.uploads == UPLOADS
    for output in outputs:
        assert (output.logits.device, output.logits.dtype) == (DEVICE, low)
        assert output.logits.shape[:2] == (ROWS, TOKENS)
        assert (output.loss.device, output.loss.dtype) == (DEVICE, torch.float32)
    assert len(outputs) == BATCHES
    assert gradients == [(DEVICE, torch.float32)] * len(trained)
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert len(states) == 3 * len(trained)  # two moments and the number of steps
    assert {(each.device, each.dtype) for each in states} == {(DEVICE, torch.float32)}
    assert {(each.device, each.dtype) for each in trainer.trained} == {(DEVICE, torch.float32)}
