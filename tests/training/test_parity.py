"""Twenty steps of the trainer on golden weights and fixed batches follow a plain re-computation.

The re-computation shares with the trainer only the networks (which conformance tests compare with the reference): the
placing of the media's tokens, the loss, AdamW, the decay rule and the schedule are written out here in plain form.
"""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.conformance_build import Golden
from video_llama.datasets.loading import Batch
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.config import ModelConfig, RunConfig
from video_llama.training.distributed import World
from video_llama.training.optim import make_optimizer, make_schedule
from video_llama.training.stages import freeze, stage_of
from video_llama.training.trainer import Trainer

NUM_STEPS = 20
PEAK, END, START, WARM_UP, DECAY = 1e-3, 3e-4, 1e-4, 5, 0.05
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
CASES = {"vision": ("multi_vicuna_flag0", "multi_llama_flag0"), "audio": ("multi_vicuna_flag1", "multi_llama_flag1")}
FLAGS: dict[str, dict[str, Any]] = {
    "vision": {"frozen_video_Qformer": False, "frozen_llama_proj": False},
    "audio": {"frozen_audio_Qformer": False},
}


def fixed_batches(golden: Golden, branch: str) -> list[Batch]:
    """The instruction batches of both templates, in turns."""
    config = golden.model.config
    batches = []
    for case in CASES[branch]:
        ids = golden.output(f"batch.{case}.input_ids")
        if branch == "audio":
            ids = ids.masked_fill(ids == config.video_token_id, config.audio_token_id)
        frames = golden.input(golden.cases["loss"][case]["images"]).transpose(1, 2)
        form = "pixel_values_videos" if branch == "vision" else "audio_pixel_values"
        names = tuple(f"{case}:{index}" for index in range(len(ids)))
        batches.append(Batch(case, names, ids, golden.output(f"batch.{case}.labels"), {form: frames}))  # type: ignore[dict-item]
    return [batches[step % 2] for step in range(NUM_STEPS)]


def fresh_model(golden: Golden) -> VideoLlamaForConditionalGeneration:
    """Golden's weights without dropout, which has no counterpart in a fixed sequence."""
    config = deepcopy(golden.model.config)
    for qformer in (config.qformer_config, config.video_qformer_config, config.audio_qformer_config):
        qformer.hidden_dropout_prob = qformer.attention_probs_dropout_prob = 0.0
    model = VideoLlamaForConditionalGeneration(config).float()
    model.load_state_dict(golden.model.state_dict())
    return model


def trainer_losses(golden: Golden, branch: str, batches: list[Batch]) -> list[float]:
    run = RunConfig(
        output_dir=Path("unused"),
        init_lr=PEAK,
        min_lr=END,
        warmup_lr=START,
        warmup_steps=WARM_UP,
        weight_decay=DECAY,
        max_epoch=2,
        device="cpu",
    )
    model = fresh_model(golden)
    freeze(model, stage_of(ModelConfig(**FLAGS[branch])))
    trainer = Trainer(
        model=model,
        optimizer=make_optimizer(model.named_parameters(), run),
        schedule=make_schedule(run, NUM_STEPS // 2),
        source=batches,
        batch_size=3,
        run=run,
        clip_noise=0.0,
        world=World(0, 1, torch.device("cpu")),
        steps_per_epoch=NUM_STEPS // 2,
        config_text="",
    )
    model.train()
    stream = iter(batches)
    return [float(trainer.step(step, stream)["loss"]) for step in range(NUM_STEPS)]


def plain_loss(model: VideoLlamaForConditionalGeneration, branch: str, batch: Batch) -> Tensor:
    """The mean negative log-likelihood of every labelled token, row by row and token by token."""
    [media] = batch.media.values()
    assert isinstance(media, Tensor)
    body = model.model
    if branch == "vision":
        tokens, place = body.video_qformer(body.encode_frames(media)), model.config.video_token_id
    else:
        tokens, place = body.fuse_clips(body.encode_frames_as_clips(media)), model.config.audio_token_id
    table = model.get_input_embeddings().weight
    terms = []
    for row, (ids, labels) in enumerate(zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True)):
        media = iter(tokens[row])
        embedded = torch.stack([next(media) if token == place else table[token] for token in ids])
        hidden = body.language_model(inputs_embeds=embedded[None]).last_hidden_state[0]
        for position, label in enumerate(labels[1:]):
            if label != -100:
                logits = model.lm_head.weight @ hidden[position]
                terms.append(torch.logsumexp(logits, 0) - logits[label])
    return torch.stack(terms).mean()


def plain_rate(step: int) -> float:
    if step < WARM_UP:
        return START + (PEAK - START) * step / WARM_UP
    return END + (PEAK - END) * (1 + math.cos(math.pi * (step - WARM_UP) / (NUM_STEPS - WARM_UP))) / 2


def plain_losses(golden: Golden, branch: str, batches: list[Batch]) -> list[float]:
    model = fresh_model(golden).eval()
    prefix = {"vision": "model.video_qformer.", "audio": "model.audio_qformer."}[branch]
    trained = {name: parameter for name, parameter in model.named_parameters() if name.startswith(prefix)}
    model.requires_grad_(False)
    means = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    squares = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    losses = []
    for step, batch in enumerate(batches):
        for parameter in trained.values():
            parameter.requires_grad_(True)
        loss = plain_loss(model, branch, batch)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(trained.values()))
        rate = plain_rate(step)
        with torch.no_grad():
            for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
                means[name] = BETA_1 * means[name] + (1 - BETA_1) * gradient
                squares[name] = BETA_2 * squares[name] + (1 - BETA_2) * gradient**2
                if parameter.ndim >= 2:
                    parameter -= rate * DECAY * parameter
                mean, square = means[name] / (1 - BETA_1 ** (step + 1)), squares[name] / (1 - BETA_2 ** (step + 1))
                parameter -= rate * mean / (square.sqrt() + EPSILON)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["vision", "audio"])
def test_twenty_steps_follow_a_plain_recomputation(repository: Path, branch: str) -> None:
    golden = Golden(repository / "tests" / "golden" / "dev")
    batches = fixed_batches(golden, branch)
    ours, plain = trainer_losses(golden, branch, batches), plain_losses(golden, branch, batches)
    case = CASES[branch][0]
    assert ours[0] == pytest.approx(float(golden.output(f"loss.{case}")), rel=1e-5)  # issue 2's limit for losses
    assert ours == pytest.approx(plain, rel=1e-5)  # ten times what was measured, and issue 4's limit
    assert ours[-2] < ours[0] - 0.05
