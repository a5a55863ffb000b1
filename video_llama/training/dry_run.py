"""Predict the memory of a training run without weights, media or GPUs: ``video-llama train CONFIG --dry-run``.

The model of the YAML is made of fake tensors (``models/simulation.py``), distributed over a simulated process group,
and trained for a few steps by the real trainer with the largest batch of each data set, while
``models/allocations.py`` records every allocation. A run on a GPU is simulated with a device that stands for it.

Not predicted, and therefore kept free: memory of the CUDA context, of NCCL, of cuBLAS and of the allocator's
fragmentation. Memory that an operation uses internally is not seen either.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from video_llama.checkpoints.folder import ModelFolder
from video_llama.config import load_config
from video_llama.datasets.loading import Batch
from video_llama.errors import ConfigError
from video_llama.models.allocations import AllocationTracker
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.memory import published_config
from video_llama.models.placement import LoadOptions, meta_model, resolve_placing, set_form
from video_llama.models.simulation import fake_tensors, fill_with_fakes, pack_simulated, simulated_device
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.config import TrainConfig
from video_llama.training.data import check_model_settings
from video_llama.training.distributed import World
from video_llama.training.lora import add_lora
from video_llama.training.optim import make_optimizer, make_schedule
from video_llama.training.planned_batches import PlannedBatch, planned_batches
from video_llama.training.run import check_combinations, freeze_others, prepare_layers
from video_llama.training.stages import Stage, stage_of
from video_llama.training.starting_model import model_without_weights, weights_dtype
from video_llama.training.trainer import Trainer

USABLE_SHARE = 0.9
"""Share of a GPU's memory that a step may use; the rest is for what is not predicted."""
PARAMETERS, GRADIENTS, OPTIMIZER, BUFFERS = "parameters", "gradients", "optimizer states", "communication buffers"


@dataclass(frozen=True)
class DryRunOptions:
    """What the YAML does not say."""

    world_size: int = 1
    """Number of processes, one per GPU."""
    gpu_memory: int | None = None
    """Memory of a GPU, in bytes."""
    size: str | None = None
    """Published size, 7b or 13b, in place of the model that the YAML names."""
    num_tokens: int | None = None
    """Length of a row in place of the longest one."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes by kind at the moment of a step when most memory is in use, for the largest batch of a data set."""

    batch: PlannedBatch
    at_peak: dict[str, int]

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())


@dataclass(frozen=True)
class DryRun:
    """The result. Sizes are bytes per process."""

    device: str
    world_size: int
    num_parameters: int
    trained: dict[str, tuple[int, ...]]
    setup: int
    """Peak before the first step: with fsdp2 the whole model exists before it is sharded."""
    steps: tuple[StepMemory, ...]
    accumulated_batches: int
    steps_per_epoch: int | None
    """None if the YAML does not set it and the data does not exist."""
    gpu_memory: int | None
    notes: tuple[str, ...]

    @property
    def largest(self) -> StepMemory:
        """The step of the data set that needs most memory."""
        return max(self.steps, key=lambda step: step.peak)

    @property
    def peak(self) -> int:
        """The most memory in use, in a step or before."""
        return max(self.largest.peak, self.setup)

    @property
    def num_trained(self) -> int:
        """Number of trained parameters."""
        return sum(math.prod(shape) for shape in self.trained.values())

    @property
    def usable(self) -> float | None:
        """The bytes of a GPU that a step may use."""
        return None if self.gpu_memory is None else USABLE_SHARE * self.gpu_memory

    @property
    def fits(self) -> bool | None:
        """Whether the peak is at most ``USABLE_SHARE`` of the GPU's memory; None without its size."""
        return None if self.usable is None else self.peak <= self.usable

    def as_dict(self) -> dict[str, Any]:
        """Return all results, for JSON."""
        derived = {"peak": self.peak, "fits": self.fits, "num_trained": self.num_trained}
        return {**asdict(self), **derived, "at_peak": self.largest.at_peak}


def dry_run_from_config(path: str | Path, overrides: Sequence[str], options: DryRunOptions) -> DryRun:
    """Predict the memory of the run that a YAML file describes. Nothing is written.

    Raises ConfigError, DataError and CheckpointError as training does, ValueError for an unknown size or a row length
    without place for the media, and RuntimeError for a version of PyTorch that cannot simulate a device.
    """
    return dry_run(load_config(TrainConfig, path, overrides), str(path), options)


def dry_run(config: TrainConfig, source: str, options: DryRunOptions = DryRunOptions()) -> DryRun:
    """See :func:`dry_run_from_config`. ``source`` names the settings in errors."""
    stage = stage_of(config.model)
    device = torch.device("cpu") if config.run.device == "cpu" else simulated_device()
    this = SimulatedWorld(0, options.world_size, device)
    check_combinations(config, this)
    model, folder = starting_model(config, source, stage, options.size, device)
    batches = planned_batches(config, folder, config_of(model), stage, options.num_tokens)
    if config.model.lora is not None:
        add_lora(model, config.model.lora, config.run.seed)
    trained = freeze_others(model, stage)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_steps = _steps_per_epoch(config, batches, this.size)
    with simulated_processes(this) as mesh:
        setup, steps = _simulate(model, config, batches, this, mesh)
    return DryRun(
        device.type if device.type == "cpu" else "cuda",
        this.size,
        num_parameters,
        trained,
        setup,
        tuple(steps),
        config.run.accum_grad_iters,
        num_steps,
        options.gpu_memory,
        tuple(_notes(config, batches)),
    )


def config_of(model: VideoLlamaForConditionalGeneration) -> VideoLlamaConfig:
    """Return the configuration of a model with its type."""
    return cast("VideoLlamaConfig", model.config)


def remedies(
    path: str | Path, overrides: Sequence[str], options: DryRunOptions
) -> Iterator[tuple[tuple[str, ...], DryRun]]:
    """Yield changes of the YAML that save memory, each with its prediction, and last all of them together."""
    config = load_config(TrainConfig, path, overrides)
    changes = _changes(config, options.world_size)
    together = tuple(each for change in changes for each in change)
    for change in [*changes, *([together] if len(changes) > 1 else [])]:
        yield change, dry_run_from_config(path, [*overrides, *change], options)


def _changes(config: TrainConfig, world_size: int) -> list[tuple[str, ...]]:
    run, model = config.run, config.model
    changes: list[tuple[str, ...]] = []
    if run.batch_size_train > 1:
        half = run.batch_size_train // 2
        changes.append((f"run.batch_size_train={half}", f"run.accum_grad_iters={2 * run.accum_grad_iters}"))
    if not run.activation_checkpointing:
        changes.append(("run.activation_checkpointing=true",))
    if model.quantization is None and model.freeze_llama and run.distributed_mode == "ddp":
        changes.append(("model.quantization=int4",))
    elif world_size > 1 and model.quantization is None and run.distributed_mode == "ddp" and run.dtype != "fp16":
        changes.append(("run.distributed_mode=fsdp2",))
    return changes


def starting_model(
    config: TrainConfig, source: str, stage: Stage, size: str | None, device: torch.device
) -> tuple[VideoLlamaForConditionalGeneration, ModelFolder | None]:
    """Return the model on the meta device with the data types of the run and, unless ``size`` is given, its folder.

    Quantized layers are simulated ones.
    """
    folder = None
    if size is None:
        folder = model_without_weights(config, source)
        check_model_settings(config.model, folder)
        model = folder.model
    else:
        published = published_config(size)
        published.with_audio_branch = published.with_imagebind_vision = "audio" in stage.branches
        model = meta_model(published)
    options = LoadOptions(device=device, dtype=weights_dtype(config.run, device))
    placing = resolve_placing(model.config.dtype or "float32", options)
    set_form(model, placing)
    if config.model.quantization is not None:
        pack_simulated(model.model.language_model.layers, config.model.quantization, placing.dtypes["decoder"])
    return model, folder


def _steps_per_epoch(config: TrainConfig, batches: Sequence[PlannedBatch], world_size: int) -> int | None:
    run = config.run
    counts = [batch.num_rows for batch in batches]
    if run.iters_per_epoch is not None:
        return run.iters_per_epoch
    if any(count is None for count in counts):
        return None
    return math.ceil(sum(filter(None, counts)) / (run.batch_size_train * world_size * run.accum_grad_iters))


def _notes(config: TrainConfig, batches: Iterable[PlannedBatch]) -> Iterator[str]:
    for batch in batches:
        if batch.num_rows is None:
            yield f"{batch.dataset}: the annotations do not exist; its rows are not counted."
        if not batch.is_measured:
            yield f"{batch.dataset}: the row length is the limit of the settings."
    if config.run.compile:
        yield "run.compile is not simulated: compiled layers may need less memory."


# --- the simulated processes


@dataclass(frozen=True)
class SimulatedWorld(World):
    """Processes that all compute the same."""

    def sum(self, value: float) -> float:
        return value * self.size

    def barrier(self) -> None:
        pass


@contextmanager
def simulated_processes(this: World) -> Iterator[Any]:
    """Set up a process group whose communication does nothing, and yield its device mesh; None for one process."""
    if this.size == 1:
        yield None
        return
    if torch.distributed.is_initialized():
        raise ConfigError("--dry-run simulates all processes. Start it without torchrun.")
    torch.distributed.init_process_group("fake", rank=this.rank, world_size=this.size, store=FakeStore())
    try:
        yield init_device_mesh(this.device.type, (this.size,))
    finally:
        torch.distributed.destroy_process_group()


class _Reducer:
    """DDP's reducer, without what reads the data of tensors: rebuilding the buckets in the order of the gradients."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False


def _finished(result: Tensor) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(result)
    return future


@contextmanager
def _without_comparing_processes() -> Iterator[None]:
    """Skip DDP's exchange of the parameters at the start, which reads their data."""
    nothing: Callable[..., None] = lambda *_args, **_kwargs: None  # noqa: E731
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        for name in ("_verify_param_shape_across_processes", "_sync_module_states"):
            stack.callback(setattr, distributed, name, getattr(distributed, name))
            setattr(distributed, name, nothing)
        yield


# --- the steps


def _simulate(
    model: VideoLlamaForConditionalGeneration,
    config: TrainConfig,
    batches: Sequence[PlannedBatch],
    this: World,
    mesh: Any,
) -> tuple[int, list[StepMemory]]:
    """Return the memory of setting up the model, and that of a step with each batch, not the first step of a run:
    the optimizer's state exists."""
    tracker = AllocationTracker(this.device.type)
    with fake_tensors(), tracker:
        fill_with_fakes(model, this.device)
        with _without_comparing_processes():
            trainer = planned_trainer(model, config, this, mesh)
        tracker.mark([*model.parameters(), *model.buffers()], PARAMETERS)
        if isinstance(trainer.network, nn.parallel.DistributedDataParallel):
            _simulate_exchange(trainer.network)
            tracker.mark_rest(BUFFERS)
        setup = sum(tracker.peak().values())
        _update_once(trainer)
        trainer.optimizer.register_step_pre_hook(lambda *_: tracker.mark(_gradients(trainer), GRADIENTS))
        done: dict[tuple[Any, ...], dict[str, int]] = {}
        steps: list[StepMemory] = []
        for batch in batches:
            shape = (batch.num_tokens, batch.media)
            if shape not in done:
                done[shape] = _step(trainer, batch, tracker)
            steps.append(StepMemory(batch, done[shape]))
    return setup, steps


def _simulate_exchange(network: nn.parallel.DistributedDataParallel) -> None:
    network.register_comm_hook(None, lambda _state, bucket: _finished(bucket.buffer()))
    setattr(network, "reducer", _Reducer(network.reducer))  # noqa: B010  (another type)


def planned_trainer(
    model: VideoLlamaForConditionalGeneration, config: TrainConfig, this: World, mesh: Any = None
) -> Trainer:
    """Return the trainer of a run, for :func:`planned_step`. ``model`` is frozen already and has its tensors."""
    run = config.run.model_copy(update={"compile": False})
    prepare_layers(model, run, this, mesh)
    trainer = Trainer(
        model,
        make_optimizer(model.named_parameters(), run),
        make_schedule(run, run.iters_per_epoch or 1),
        source=[],
        batch_size=run.batch_size_train * this.size,
        run=run,
        clip_noise=config.model.clip_noise,
        world=this,
        steps_per_epoch=run.iters_per_epoch or 1,
        config_text="",
    )
    model.train()
    return trainer


def planned_step(trainer: Trainer, batch: PlannedBatch) -> None:
    """Update the weights once, with the planned batch."""

    def group() -> Iterator[Batch]:
        for _ in range(trainer.run.accum_grad_iters):
            yield batch.tensors(config_of(trainer.model))

    trainer.step(0, group())


def _gradients(trainer: Trainer) -> list[Tensor]:
    return [parameter.grad for parameter in trainer.trained if parameter.grad is not None]


def _update_once(trainer: Trainer) -> None:
    """Update the weights with gradients of 0, which creates the optimizer's state.

    The first update with FSDP2 also creates whole tensors from which DTensor derives shapes, once for each operation.
    A real run does not allocate them.
    """
    for parameter in trainer.trained:
        parameter.grad = torch.zeros_like(parameter)
    trainer.scaler.scale(torch.zeros((), device=trainer.world.device))
    trainer.update(0, [])


def _step(trainer: Trainer, batch: PlannedBatch, tracker: AllocationTracker) -> dict[str, int]:
    states = trainer.optimizer.state.values()
    tracker.mark([value for state in states for value in state.values() if isinstance(value, Tensor)], OPTIMIZER)
    first = tracker.num_operations
    planned_step(trainer, batch)
    return tracker.peak(first)
