"""One training run, from a YAML file to a run folder: the story that every recipe follows.

```
output_dir/metrics.jsonl        a row per step
           valid.jsonl          a row per validation, where there is one
           curves.png           these numbers as curves, where matplotlib is installed
           config.yaml          the settings as resolved
           trained_parts.json   what trains, by name and shape, and how many numbers that is
           checkpoints/step_N/  see checkpoint.py
           best/                the trained parts at the lowest validation loss
           evaluation.jsonl     a row per evaluation without training (run.evaluate)
           left_out.jsonl       samples that were skipped since their media cannot be read
           features/            what the frozen encoders say of each medium, where the run caches it
```
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from video_llama.config import dump_yaml, load_config, require_filled
from video_llama.errors import CheckpointError, ConfigError, MissingExtraError
from video_llama.files import replace_text
from video_llama.log import logger
from video_llama.training.config import RunConfig, TrainConfig
from video_llama.training.stages import Stage, freeze, stage_of

if TYPE_CHECKING:
    from video_llama.checkpoints.folder import ModelFolder
    from video_llama.datasets.loading import TrainingSet
    from video_llama.training.distributed import World
    from video_llama.training.trainer import Trainer
    from video_llama.training.validation import Validation

Resume = Literal["auto"] | str | Path | None

EVALUATION_FILE = "evaluation.jsonl"
TRAINED_PARTS_FILE = "trained_parts.json"
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    stage = stage_of(config.model)
    start_from = _starting_checkpoint(config.run, resume)
    with _naming_a_full_disk(config.run.output_dir):
        _run(config, source, stage, start_from, max_steps)
    return config.run.output_dir


def _run(config: TrainConfig, source: str, stage: Stage, start_from: Path | None, max_steps: int | None) -> None:

    from video_llama.training.distributed import world
    from video_llama.training.mixture import check_model, training_sets

    with world(config.run.device) as this:
        _check_ways(config, this)
        folder = load_folder(config, source, this)
        check_model(config.model, folder)
        _start_from_trained(folder, config, stage, is_resumed=start_from is not None)
        _freeze_and_tell(folder, stage, config, this)
        sets = [] if config.run.evaluate else training_sets("datasets", config, folder, stage, this)
        valid_sets = training_sets("valid", config, folder, stage, this)
        _change_layers(folder, config.run, this)
        trainer = _make_trainer(config, folder, stage, sets, valid_sets, this)
        if config.run.evaluate:
            _evaluate(trainer, config, start_from)
            return
        first = _resume(trainer, start_from)
        total = len(trainer.source) // config.run.accum_grad_iters
        last = total if max_steps is None else min(total, max_steps)
        trainer.train(first, last)
        if this.is_main and first < last:
            _draw_curves(config.run.output_dir)


@contextmanager
def _naming_a_full_disk(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK_ERRORS:
            raise
        raise CheckpointError(
            f"{output_dir} cannot be written: {error}. What was there is kept; make room and go on with --resume auto."
        ) from error


def _check_ways(config: TrainConfig, this: World) -> None:
    run = config.run
    if run.dtype == "fp16" and this.device.type == "cpu":
        raise ConfigError("run.dtype: fp16 is for GPUs, and this run is on the CPU. Set fp32 or bf16.")
    if run.dtype == "fp16" and run.distributed_mode == "fsdp2":
        raise ConfigError("run.dtype: fp16's loss scale is not tried with fsdp2. Set bf16, or distributed_mode: ddp.")
    if config.model.quantization is not None and run.distributed_mode == "fsdp2":
        raise ConfigError(
            "run.distributed_mode: fsdp2 cuts parameters into shards, and a quantised decoder has none. Set ddp."
        )


def _evaluate(trainer: Trainer, config: TrainConfig, checkpoint: Path | None) -> None:
    """Take the loss on the validation data and add it, with what it is of, to evaluation.jsonl."""
    from video_llama.training.checkpoint import restore_weights
    from video_llama.training.starting_model import trained_checkpoints

    model = config.model
    num_steps = 0 if checkpoint is None else restore_weights(checkpoint, trainer.model)
    weights = [str(checkpoint)] if checkpoint else trained_checkpoints(model)
    weights = weights or [str(model.pretrained or model.llama_model)]
    row = trainer.evaluate(num_steps)
    if trainer.world.is_main:
        config.run.output_dir.mkdir(parents=True, exist_ok=True)
        with (config.run.output_dir / EVALUATION_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "weights": weights}) + "\n")
        logger.info("%s: loss %.5f over %d tokens", ", ".join(weights), row["loss"], row["num_tokens"])


def _change_layers(folder: ModelFolder, run: RunConfig, this: World) -> None:
    """Recompute, compile and cut into shards, in this order: each works on what the one before made."""
    from video_llama.training.memory import compile_decoder, recompute_activations
    from video_llama.training.parallel import shard_model

    if run.activation_checkpointing:
        recompute_activations(folder.model)
    if run.compile:
        compile_decoder(folder.model)
    if run.distributed_mode == "fsdp2" and this.size > 1:
        shard_model(folder.model)


def _draw_curves(output_dir: Path) -> None:
    """Draw the run's curves where that is possible; a run does not fail for want of a picture."""
    from video_llama.training.plotting import plot_run

    try:
        logger.info("curves: %s", plot_run(output_dir))
    except MissingExtraError as error:
        logger.info("no curves are drawn: %s", error)
    except OSError as error:
        logger.warning("the curves cannot be written: %s", error)


def _starting_checkpoint(run: RunConfig, resume: Resume) -> Path | None:
    """The checkpoint to go on from; None begins. Raises where a new run would mix with one that is there."""
    from video_llama.training.checkpoint import newest_checkpoint

    newest = newest_checkpoint(run.output_dir)
    wanted = resume or run.resume_ckpt_path or None
    if run.evaluate and wanted is None:
        return None
    if run.evaluate and wanted == "auto" and newest is None:
        raise CheckpointError(
            f"{run.output_dir} has no checkpoint to evaluate. Name one, or leave --resume out to evaluate model.ckpt."
        )
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


def load_folder(config: TrainConfig, source: str, this: World) -> ModelFolder:
    """The model that a run begins with: ``model.pretrained``, or put together from the published pieces.

    Raises ConfigError where neither is given, CheckpointError for weights that are bad or missing.
    """
    import torch

    from video_llama.checkpoints.folder import read_model_folder
    from video_llama.models.placement import LoadOptions
    from video_llama.training.starting_model import load_pieces, pretrained_folder

    dtype = torch.float32 if config.run.dtype == "fp32" else None
    options = LoadOptions(device=this.device, dtype=dtype, quantization=config.model.quantization)
    path = pretrained_folder(config.model)
    try:
        if path is None:
            return load_pieces(config, source, options)
        return read_model_folder(path, options)
    except ValueError as error:
        raise ConfigError(f"model.quantization: {error}") from error


def _start_from_trained(folder: ModelFolder, config: TrainConfig, stage: Stage, *, is_resumed: bool) -> None:
    """Put the checkpoints ``ckpt`` and ``ckpt_2`` and the adapters into the model; tell what is random in a new run.

    Warns where it would see through random parts. Raises ConfigError for a checkpoint's adapters without model.lora.
    """
    from video_llama.training.checkpoint import load_trained, read_trained
    from video_llama.training.lora import add_lora, split_lora
    from video_llama.training.starting_model import trained_checkpoints

    model = config.model
    found = [(path, *split_lora(read_trained(path))) for path in trained_checkpoints(model)]
    filled: list[str] = []
    for path, _, others in found:
        load_trained(folder.model, others, source=path)
        filled += others
        logger.info("%d tensors from %s", len(others), path)
    if model.lora is not None:
        add_lora(folder.model, model.lora, config.run.seed)
    for path, adapters, _ in found:
        if adapters and model.lora is None:
            raise ConfigError(f"model.lora: {path} has adapters. Give their settings, or merge them first.")
        if adapters:
            load_trained(folder.model, adapters, source=path)
    for part in folder.manifest.untrained_parts:
        if any(name.startswith(part) for name in filled):
            continue
        is_trained = stage.trains(part) or any(name.startswith(part) for name in stage.trained)
        if is_trained and is_resumed:
            continue
        if is_trained and not config.run.evaluate:
            logger.info("%s starts from random values", part)
        elif is_trained or stage.reads(part):
            name = folder.path or folder.manifest.name
            logger.warning("%s: %s is random and stays so, and the loss is taken through it", name, part)


def _freeze_and_tell(folder: ModelFolder, stage: Stage, config: TrainConfig, this: World) -> None:
    """Freeze all but the stage's parts, keep those in float32, and write down what trains."""
    trained = freeze(folder.model, stage)
    for parameter in folder.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    count = sum(math.prod(shape) for shape in trained.values())
    if this.is_main and not config.run.evaluate:
        logger.info("training %d parameters in %d tensors: %s", count, len(trained), ", ".join(stage.parts))
        output = config.run.output_dir
        output.mkdir(parents=True, exist_ok=True)
        parts = {"num_parameters": count, "parts": stage.parts, "parameters": trained}
        replace_text(output / TRAINED_PARTS_FILE, json.dumps(parts, indent=1))
        replace_text(output / "config.yaml", dump_yaml(config))


def _make_trainer(
    config: TrainConfig,
    folder: ModelFolder,
    stage: Stage,
    sets: Sequence[TrainingSet],
    valid_sets: Sequence[TrainingSet],
    this: World,
) -> Trainer:
    import numpy as np

    from video_llama.datasets.loading import Batch, BatchOrder, BatchSource
    from video_llama.training.optim import make_optimizer, make_schedule
    from video_llama.training.trainer import Trainer

    run = config.run
    batch_size = run.batch_size_train * this.size
    num_rows = sum(len(each.samples) for each in sets)
    steps_per_epoch = run.iters_per_epoch or math.ceil(num_rows / (batch_size * run.accum_grad_iters))
    num_batches = run.max_epoch * steps_per_epoch * run.accum_grad_iters
    lengths = [np.array([sample.text_length for sample in each.samples]) for each in sets]
    source: BatchSource | Sequence[Batch] = []
    if sets:
        order = BatchOrder(
            [len(each.samples) for each in sets],
            [each.ratio for each in sets],
            batch_size,
            num_batches,
            run.seed,
            lengths if run.group_by_length else None,
        )
        source = BatchSource(sets, order, folder.tokenizer.pad_id, run.pad_to_multiple, this.rank, this.size)
    return Trainer(
        model=folder.model,
        optimizer=make_optimizer(folder.model.named_parameters(), run),
        schedule=make_schedule(run, steps_per_epoch),
        source=source,
        batch_size=batch_size,
        run=run,
        clip_noise=config.model.clip_noise,
        world=this,
        steps_per_epoch=steps_per_epoch,
        config_text=dump_yaml(config),
        trains_both_branches=stage.may_leave_parts_unused,
        bad_shares={name: each.max_bad_share for name, each in config.datasets.items() if each.on_bad_media == "skip"},
        validation=_validation(valid_sets, run, folder.tokenizer.pad_id, this),
    )


def _validation(sets: Sequence[TrainingSet], run: RunConfig, pad_id: int, this: World) -> Validation | None:
    from video_llama.training.validation import Validation

    if not sets:
        return None
    return Validation.of(sets, run.batch_size_eval, run.valid_every_steps, pad_id, run.pad_to_multiple, this)


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
    elif state.world_size != trainer.world.size:
        logger.warning(
            "%s was written by %d processes, now there are %d: the rows of every batch stay the same, dropout and "
            "noise, which each process draws for its part, do not.",
            checkpoint,
            state.world_size,
            trainer.world.size,
        )
    if state.scaler:
        trainer.scaler.load_state_dict(state.scaler)
    if state.left_out:
        trainer.left_out.load_state_dict(state.left_out)
    logger.info("going on after step %d", state.step)
    return state.step
