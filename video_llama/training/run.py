"""Run one training from a YAML file: load the model and the data, train, and write the run folder.

```
output_dir/metrics.jsonl        one row per step
           valid.jsonl          one row per validation
           run.lock             locked while the run is active
           curves.png           plots of these metrics, if matplotlib is installed
           config.yaml          the resolved settings
           trained_parts.json   names and shapes of the trained parameters, and their number
           checkpoints/step_N/  see checkpoint.py
           best/                the trained parameters with the lowest validation loss
           evaluation.jsonl     one row per evaluation without training (run.evaluate)
           left_out.jsonl       samples that were skipped because of unreadable media
           features/            cached features of the frozen encoders (run.cache_features)
```
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from torch.distributed.device_mesh import DeviceMesh

try:
    import fcntl
except ImportError:  # on Windows, run folders are not locked
    fcntl = None  # type: ignore[assignment]

from video_llama.checkpoints.folder import ModelFolder
from video_llama.config import dump_yaml, load_config, require_filled
from video_llama.datasets.loading import Batch, BatchOrder, BatchSource, TrainingSet
from video_llama.datasets.sample import Sample
from video_llama.errors import CheckpointError, ConfigError, MissingExtraError
from video_llama.files import replace_text
from video_llama.log import logger
from video_llama.models.cpu import emulates_bfloat16, processor
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import RUN_CONFIG_FILE, newest_checkpoint, restore_checkpoint, restore_weights
from video_llama.training.config import RunConfig, TrainConfig
from video_llama.training.data import check_model_settings, training_sets
from video_llama.training.distributed import World, world
from video_llama.training.memory import compile_decoder, recompute_activations
from video_llama.training.optim import make_optimizer, make_schedule
from video_llama.training.parallel import shard_model
from video_llama.training.plotting import plot_run
from video_llama.training.stages import Stage, freeze, stage_of
from video_llama.training.starting_model import load_starting_model, load_trained_parts, trained_checkpoints
from video_llama.training.trainer import Trainer
from video_llama.training.validation import Validation

Resume = Literal["auto"] | str | Path | None

LOCK_FILE = "run.lock"
EVALUATION_FILE = "evaluation.jsonl"
TRAINED_PARTS_FILE = "trained_parts.json"
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train_from_config(
    path: str | Path, overrides: Sequence[str] = (), *, resume: Resume = None, max_steps: int | None = None
) -> Path:
    """Run the training of a YAML file and return the run folder.

    Args:
        path: The YAML file.
        overrides: Changes of the YAML, such as "run.init_lr=1e-3".
        resume: "auto" resumes from the newest checkpoint of the run, or starts a new run without one. A path is a
            checkpoint folder to resume from.
        max_steps: Stop after this many steps. The learning rate schedule is still that of the whole run.

    Raises:
        ConfigError: Settings are invalid, contain placeholders, or contradict the model.
        DataError, MediaError: Annotations or media are unusable, or the loss is not finite.
        CheckpointError: Weights are missing or invalid.
        KeyboardInterrupt: The run was stopped by Ctrl-C or SIGTERM. A checkpoint was saved.
    """
    return train(load_config(TrainConfig, path, overrides), source=str(path), resume=resume, max_steps=max_steps)


def train(config: TrainConfig, *, source: str, resume: Resume = None, max_steps: int | None = None) -> Path:
    """Run the training of ``config``; see :func:`train_from_config`. ``source`` names the settings in errors."""
    require_filled(config, source=source)
    stage = stage_of(config.model)
    start_from = _starting_checkpoint(config.run, resume)
    with _full_disk_is_named(config.run.output_dir), _locked(config.run):
        _run(config, source, stage, start_from, max_steps)
    return config.run.output_dir


def _run(config: TrainConfig, source: str, stage: Stage, start_from: Path | None, max_steps: int | None) -> None:
    with world(config.run.device) as this:
        check_combinations(config, this)
        folder = load_starting_model(config, source, this.device)
        check_model_settings(config.model, folder)
        load_trained_parts(folder, config, stage, is_resumed=start_from is not None)
        _freeze(folder, stage, config, this)
        sets = [] if config.run.evaluate else training_sets("datasets", config, folder, stage, this)
        valid_sets = training_sets("valid", config, folder, stage, this)
        prepare_layers(folder.model, config.run, this)
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
def _locked(run: RunConfig) -> Iterator[None]:
    """Keep other runs out of the run folder. Raises CheckpointError if one is there.

    The main process of a training holds a lock on LOCK_FILE, which the operating system releases when the process ends.
    """
    if run.evaluate or fcntl is None or int(os.environ.get("RANK", "0")) != 0:
        yield
        return
    run.output_dir.mkdir(parents=True, exist_ok=True)
    path = run.output_dir / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            raise CheckpointError(
                f"{run.output_dir} is in use by another run (process {file.read(20).strip()}). Wait until it ends, or "
                "choose another run.output_dir."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def _full_disk_is_named(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK_ERRORS:
            raise
        raise CheckpointError(
            f"{output_dir} cannot be written: {error}. Existing files are kept. Free disk space and continue with "
            "--resume auto."
        ) from error


def check_combinations(config: TrainConfig, this: World) -> None:
    """Raise ConfigError for settings that do not work together or on this device; warn of bf16 that is emulated."""
    run = config.run
    if run.dtype == "bf16" and emulates_bfloat16(this.device) and this.is_main:
        logger.warning(
            "run.dtype: this processor (%s) emulates bf16, which takes many times as long as fp32. Set fp32.",
            processor().name,
        )
    if run.dtype == "fp16" and this.device.type == "cpu":
        raise ConfigError("run.dtype: fp16 requires a GPU, but this run uses the CPU. Set fp32 or bf16.")
    if run.dtype == "fp16" and run.distributed_mode == "fsdp2":
        raise ConfigError("run.dtype: fp16 is not supported with fsdp2. Set bf16, or distributed_mode: ddp.")
    if config.model.quantization is not None and run.distributed_mode == "fsdp2":
        raise ConfigError(
            "run.distributed_mode: fsdp2 shards parameters, but a quantized decoder has no parameters. Set ddp."
        )


def _evaluate(trainer: Trainer, config: TrainConfig, checkpoint: Path | None) -> None:
    """Compute the validation loss and append it, with the evaluated weights, to evaluation.jsonl."""
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


def prepare_layers(
    model: VideoLlamaForConditionalGeneration, run: RunConfig, this: World, mesh: DeviceMesh | None = None
) -> None:
    """Set up activation checkpointing, compilation and sharding, over ``mesh`` or all processes. The order matters."""
    if run.activation_checkpointing:
        recompute_activations(model)
    if run.compile:
        compile_decoder(model)
    if run.distributed_mode == "fsdp2" and this.size > 1:
        shard_model(model, mesh)


def _draw_curves(output_dir: Path) -> None:
    """Plot the metrics of the run. Failures are logged and do not stop the run."""
    try:
        logger.info("curves: %s", plot_run(output_dir))
    except MissingExtraError as error:
        logger.info("no curves are plotted: %s", error)
    except OSError as error:
        logger.warning("the curves cannot be written: %s", error)


def _starting_checkpoint(run: RunConfig, resume: Resume) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run.

    Raises ConfigError if a new run would write into the folder of an existing one, and CheckpointError for a missing
    checkpoint.
    """
    newest = newest_checkpoint(run.output_dir)
    wanted = resume or run.resume_ckpt_path or None
    if run.evaluate and wanted is None:
        return None
    if run.evaluate and wanted == "auto" and newest is None:
        raise CheckpointError(
            f"{run.output_dir} has no checkpoint to evaluate. Give a checkpoint, or omit --resume to evaluate "
            "model.ckpt."
        )
    if wanted is None and newest is not None:
        raise ConfigError(
            f"run.output_dir: {run.output_dir} already contains a run ({newest.name}). Resume it (--resume auto), "
            "delete it, or choose another folder."
        )
    if wanted is None or wanted == "auto":
        return newest
    if not Path(wanted).is_dir():
        raise CheckpointError(
            f"{wanted} is not a checkpoint folder. Give a folder such as .../checkpoints/step_000500 to resume from."
        )
    return Path(wanted)


def _freeze(folder: ModelFolder, stage: Stage, config: TrainConfig, this: World) -> None:
    """Freeze all but the trained parameters, convert these to float32, and write the run's description files."""
    trained = freeze_others(folder.model, stage)
    count = sum(math.prod(shape) for shape in trained.values())
    if this.is_main and not config.run.evaluate:
        logger.info("training %d parameters in %d tensors: %s", count, len(trained), ", ".join(stage.parts))
        output = config.run.output_dir
        output.mkdir(parents=True, exist_ok=True)
        parts = {"num_parameters": count, "parts": stage.parts, "parameters": trained}
        replace_text(output / TRAINED_PARTS_FILE, json.dumps(parts, indent=1))
        replace_text(output / RUN_CONFIG_FILE, dump_yaml(config))


def freeze_others(model: VideoLlamaForConditionalGeneration, stage: Stage) -> dict[str, tuple[int, ...]]:
    """Freeze all but the trained parameters, convert these to float32, and return their names and shapes."""
    trained = freeze(model, stage)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trained


def _make_trainer(
    config: TrainConfig,
    folder: ModelFolder,
    stage: Stage,
    sets: Sequence[TrainingSet],
    valid_sets: Sequence[TrainingSet],
    this: World,
) -> Trainer:
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
        rows={each.name: rows_hash(each.samples) for each in sets},
    )


def _validation(sets: Sequence[TrainingSet], run: RunConfig, pad_id: int, this: World) -> Validation | None:
    if not sets:
        return None
    return Validation.of(sets, run.batch_size_eval, run.valid_every_steps, pad_id, run.pad_to_multiple, this)


def rows_hash(samples: Sequence[Sample]) -> str:
    """Return a hash of the rows of a data set in their order. Names of rows and folders of media do not count."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.content.encode() + b"\n")
    return digest.hexdigest()[:16]


def _check_rows(checkpoint: Path, saved: Mapping[str, str] | None, rows: Mapping[str, str]) -> None:
    """Raise CheckpointError if the rows of a data set differ from those of the checkpoint."""
    changed = sorted(
        name for name in {**(saved or {}), **rows} if saved is not None and saved.get(name) != rows.get(name)
    )
    if changed:
        raise CheckpointError(
            f"datasets.{changed[0]}: the rows have changed since {checkpoint} was written, so the run cannot be "
            "continued exactly. Restore the annotations, or start a new run in another run.output_dir with model.ckpt: "
            f"{checkpoint}."
        )


def _resume(trainer: Trainer, checkpoint: Path | None) -> int:
    """Restore a checkpoint and return the number of completed steps."""
    if checkpoint is None:
        return 0
    state = restore_checkpoint(checkpoint, trainer.model, trainer.optimizer)
    _check_rows(checkpoint, state.rows, trainer.rows)
    if state.batch_size != trainer.batch_size:
        logger.warning(
            "%s was written with %d rows per batch (%d processes), but there are %d now. The order of the data changes "
            "from here on. To keep it, set run.batch_size_train so that the number of rows stays the same.",
            checkpoint,
            state.batch_size,
            state.world_size,
            trainer.batch_size,
        )
    elif state.world_size != trainer.world.size:
        logger.warning(
            "%s was written by %d processes, but there are %d now. The rows of each batch stay the same; dropout and "
            "noise differ.",
            checkpoint,
            state.world_size,
            trainer.world.size,
        )
    if state.scaler:
        trainer.scaler.load_state_dict(state.scaler)
    if state.left_out:
        trainer.left_out.load_state_dict(state.left_out)
    logger.info("resuming after step %d", state.step)
    return state.step
