"""One training run, from a YAML file to a run folder: the story that every recipe follows.

```
output_dir/metrics.jsonl        a row per step
           config.yaml          the settings as resolved
           trained_parts.json   what trains, by name and shape, and how many numbers that is
           checkpoints/step_N/  see checkpoint.py
           left_out.jsonl       samples that were skipped since their media cannot be read
           features/            what the frozen encoders say of each medium, where the run caches it
```
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from video_llama.config import dump_yaml, load_config, require_filled
from video_llama.errors import CheckpointError, ConfigError
from video_llama.log import logger
from video_llama.training.config import ModelConfig, RunConfig, TrainConfig
from video_llama.training.stages import Stage, freeze, stage_of

if TYPE_CHECKING:
    from video_llama.chat.folder import ModelFolder
    from video_llama.datasets.loading import TrainingSet
    from video_llama.training.distributed import World
    from video_llama.training.trainer import Trainer

Resume = Literal["auto"] | str | Path | None

TRAINED_PARTS_FILE = "trained_parts.json"


def train_from_config(
    path: str | Path, overrides: Sequence[str] = (), *, resume: Resume = None, max_steps: int | None = None
) -> Path:
    """Train as the YAML file at ``path`` says and return the run folder.

    Args:
        overrides: "run.init_lr=1e-3" and the like, put in before the settings are checked.
        resume: "auto" goes on from the run's newest checkpoint, or begins where there is none; or a checkpoint.
        max_steps: stop after this many steps; the schedule stays that of the whole run.

    Raises:
        ConfigError: settings that are wrong, still placeholders, or do not fit the model.
        DataError, MediaError: annotations or files that cannot be used; a loss that is not finite.
        CheckpointError: weights that cannot be used.
        KeyboardInterrupt: after saving, when stopped by Ctrl-C or SIGTERM.
    """
    return train(load_config(TrainConfig, path, overrides), source=str(path), resume=resume, max_steps=max_steps)


def train(config: TrainConfig, *, source: str, resume: Resume = None, max_steps: int | None = None) -> Path:
    """Train as ``config`` says; see :func:`train_from_config`. ``source`` names the settings in errors."""
    require_filled(config, source=source)
    pretrained = _require_folder(config.model, source)
    stage = stage_of(config.model)
    start_from = _starting_checkpoint(config.run, resume)

    from video_llama.training.distributed import world
    from video_llama.training.mixture import check_model, training_sets

    with world(config.run.device) as this:
        folder = _load(config, pretrained, this)
        check_model(config.model, folder)
        _start_from_trained(folder, config.model, stage)
        _freeze_and_tell(folder, stage, config, this)
        sets = training_sets(config, folder, stage, this)
        trainer = _make_trainer(config, folder, stage, sets, this)
        first = _resume(trainer, start_from)
        total = len(trainer.source) // config.run.accum_grad_iters
        last = total if max_steps is None else min(total, max_steps)
        trainer.train(first, last)
    return config.run.output_dir


def _require_folder(config: ModelConfig, source: str) -> Path:
    if config.pretrained is None:
        raise ConfigError(
            f"{source}: model.pretrained is not given, and loading a model from its published pieces (llama_model, "
            "imagebind_ckpt_path, ...) is not there yet. Set model.pretrained to an assembled model folder."
        )
    return config.pretrained


def _starting_checkpoint(run: RunConfig, resume: Resume) -> Path | None:
    """The checkpoint to go on from; None begins. Raises where a new run would mix with one that is there."""
    from video_llama.training.checkpoint import newest_checkpoint

    newest = newest_checkpoint(run.output_dir)
    wanted = resume or run.resume_ckpt_path or None
    if wanted is None and newest is not None:
        raise ConfigError(
            f"run.output_dir: {run.output_dir} holds a run ({newest.name}). Go on with it (--resume auto), delete it, "
            "or name another folder."
        )
    if wanted is None or wanted == "auto":
        return newest
    if not Path(wanted).is_dir():
        raise CheckpointError(
            f"{wanted}: no checkpoint to resume from. Give a folder such as .../checkpoints/step_000500."
        )
    return Path(wanted)


def _load(config: TrainConfig, pretrained: Path, this: World) -> ModelFolder:
    import torch

    from video_llama.chat.folder import read_model_folder

    dtype = torch.float32 if config.run.dtype == "fp32" else None
    return read_model_folder(pretrained, dtype=dtype, device=this.device)


def _start_from_trained(folder: ModelFolder, config: ModelConfig, stage: Stage) -> None:
    """Put the checkpoints ``ckpt`` and ``ckpt_2`` into the model, and warn where it would see through random parts."""
    from video_llama.training.checkpoint import load_trained, read_trained

    filled: list[str] = []
    for path in filter(None, (config.ckpt, config.ckpt_2)):
        tensors = read_trained(path)
        load_trained(folder.model, tensors, source=path)
        filled += tensors
        logger.info("%d tensors from %s", len(tensors), path)
    for part in folder.manifest.untrained_parts:
        is_filled = any(name.startswith(part) for name in (*filled, *stage.trained))
        if stage.reads(part) and not is_filled:
            logger.warning("%s: %s is random and stays so, and what trains here sees through it", folder.path, part)


def _freeze_and_tell(folder: ModelFolder, stage: Stage, config: TrainConfig, this: World) -> None:
    """Freeze all but the stage's parts, keep those in float32, and write down what trains."""
    trained = freeze(folder.model, stage)
    for parameter in folder.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    count = sum(math.prod(shape) for shape in trained.values())
    if this.is_main:
        logger.info("training %d parameters in %d tensors: %s", count, len(trained), ", ".join(stage.trained))
        output = config.run.output_dir
        output.mkdir(parents=True, exist_ok=True)
        (output / TRAINED_PARTS_FILE).write_text(
            json.dumps({"num_parameters": count, "parts": stage.trained, "parameters": trained}, indent=1), "utf-8"
        )
        (output / "config.yaml").write_text(dump_yaml(config), "utf-8")


def _make_trainer(
    config: TrainConfig, folder: ModelFolder, stage: Stage, sets: Sequence[TrainingSet], this: World
) -> Trainer:
    import numpy as np

    from video_llama.datasets.loading import BatchOrder, BatchSource
    from video_llama.training.optim import make_optimizer, make_schedule
    from video_llama.training.trainer import Trainer

    run = config.run
    batch_size = run.batch_size_train * this.size
    num_rows = sum(len(each.samples) for each in sets)
    steps_per_epoch = run.iters_per_epoch or math.ceil(num_rows / (batch_size * run.accum_grad_iters))
    num_batches = run.max_epoch * steps_per_epoch * run.accum_grad_iters
    lengths = [np.array([sample.text_length for sample in each.samples]) for each in sets]
    order = BatchOrder(
        [len(each.samples) for each in sets],
        [each.ratio for each in sets],
        batch_size,
        num_batches,
        run.seed,
        lengths if run.group_by_length else None,
    )
    return Trainer(
        model=folder.model,
        optimizer=make_optimizer(folder.model.named_parameters(), run),
        schedule=make_schedule(run, steps_per_epoch),
        source=BatchSource(sets, order, folder.tokenizer.pad_id, run.pad_to_multiple, this.rank, this.size),
        batch_size=batch_size,
        run=run,
        clip_noise=config.model.clip_noise,
        world=this,
        steps_per_epoch=steps_per_epoch,
        config_text=dump_yaml(config),
        trains_both_branches=len(stage.branches) > 1,
        bad_shares={name: each.max_bad_share for name, each in config.datasets.items() if each.on_bad_media == "skip"},
    )


def _resume(trainer: Trainer, checkpoint: Path | None) -> int:
    """Put a checkpoint back and return the number of steps that are done."""
    from video_llama.training.checkpoint import restore_checkpoint

    if checkpoint is None:
        return 0
    state = restore_checkpoint(checkpoint, trainer.model, trainer.optimizer)
    if state.batch_size != trainer.batch_size:
        logger.warning(
            "%s was written with %d rows a batch (%d processes), now there are %d: the order of the data is another "
            "from here on. Set run.batch_size_train so that the product stays, to keep it.",
            checkpoint,
            state.batch_size,
            state.world_size,
            trainer.batch_size,
        )
    logger.info("going on after step %d", state.step)
    return state.step
