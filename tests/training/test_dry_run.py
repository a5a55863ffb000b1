"""The predicted memory of a training run: exact where it follows from the shapes, and compared with real steps."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mid_size_model import write_folder
from tests.factories.simulated import simulated_config
from video_llama.errors import ConfigError
from video_llama.training.dry_run import (
    BUFFERS,
    GRADIENTS,
    OPTIMIZER,
    PARAMETERS,
    DryRun,
    DryRunOptions,
    dry_run_from_config,
    remedies,
)

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "train_configs").glob("*.yaml"))
TOLERANCE = 0.1
"""The project's target. Differences come from memory that operations use internally, and from the C library's heap."""

HEAP = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
"""See tests/models/test_memory.py."""

Write = Callable[..., Path]
UNCACHED = {"cache_features": False}


def predict(path: Path, *overrides: str, **options: Any) -> DryRun:
    return dry_run_from_config(path, overrides, DryRunOptions(**options))


@pytest.mark.parametrize("device", ["cuda", pytest.param("cpu", marks=pytest.mark.slow)])
def test_sizes_that_follow_from_the_shapes(write_yaml: Write, tmp_path: Path, device: str) -> None:
    path = write_yaml(model={"lora": {"r": 2}})
    before = sorted(tmp_path.rglob("*"))
    result = predict(path, f"run.device={device}")
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written
    assert result.device == device
    assert any(".lora_" in name for name in result.trained)
    assert all(name.startswith("model.video_qformer.") or ".lora_" in name for name in result.trained)
    # At the peak of this model, the optimizer runs: its gradients exist. A block has a multiple of 512 bytes.
    at_peak = result.largest.at_peak
    padding = 512 * len(result.trained)
    assert 8 * result.num_trained <= at_peak[OPTIMIZER] <= 8 * result.num_trained + 3 * padding
    assert 4 * result.num_parameters <= at_peak[PARAMETERS]
    assert at_peak.get(GRADIENTS, 0) <= 4 * result.num_trained + padding


def test_the_batch(write_yaml: Write) -> None:
    """32 rows in batches of 4 over 2 processes: 4 steps. The rows are those of the questions, with their media."""
    path = write_yaml(run={"iters_per_epoch": None, "accum_grad_iters": 1})
    result = predict(path, world_size=2)
    [step] = result.steps
    assert (step.batch.num_rows, step.batch.batch_size, step.batch.is_measured) == (32, 4, True)
    assert result.steps_per_epoch == 4
    [media] = step.batch.media
    assert (media.form, media.count, media.steps) == ("frame_tokens", 1, 4)
    assert step.batch.num_tokens % 16 == 0


@pytest.mark.slow
def test_batch_length_and_checkpointing(write_yaml: Write) -> None:
    path = write_yaml()
    plain = predict(path, num_tokens=256).peak
    assert predict(path, "run.batch_size_train=8", num_tokens=256).peak > plain
    assert predict(path, "run.activation_checkpointing=true", num_tokens=256).peak < plain


@pytest.mark.slow
def test_more_processes(write_yaml: Write) -> None:
    path = write_yaml(model={"freeze_llama": False})
    results = [predict(path, f"run.distributed_mode={mode}", world_size=8) for mode in ("ddp", "fsdp2")]
    copies, shards = (result.largest.at_peak for result in results)
    assert copies[BUFFERS] == pytest.approx(4 * results[0].num_trained, rel=0.01)  # a second copy of all gradients
    assert shards[OPTIMIZER] < copies[OPTIMIZER] / 3  # not / 8: shards of small tensors are rounded up to 512 bytes


@pytest.mark.slow
def test_a_first_step_with_fsdp2_needs_what_a_second_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer dominates here. Whole tensors from which DTensor derives shapes once are not counted."""
    module = importlib.import_module("video_llama.training.dry_run")
    peaks: list[dict[str, int]] = []

    def twice(trainer: Any, batch: Any, tracker: Any, step: Any = module._step) -> dict[str, int]:
        peaks.extend(step(trainer, batch, tracker) for _ in range(2))
        return peaks[-1]

    monkeypatch.setattr(module, "_step", twice)
    monkeypatch.setattr(module, "published_config", lambda size: simulated_config(size, num_layers=8))
    recipe = next(path for path in RECIPES if path.stem == "visionbranch_stage2_finetune")
    settings = ("run.distributed_mode=fsdp2", "model.freeze_llama=false", "run.activation_checkpointing=true")
    # No other test has five processes: DTensor keeps the shapes.
    predict(
        recipe, *settings, "run.batch_size_train=1", "run.cache_features=true", size="7b", num_tokens=64, world_size=5
    )
    assert sum(peaks[0].values()) == pytest.approx(sum(peaks[1].values()), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_on_a_gpu(write_yaml: Write, dtype: str) -> None:
    overrides = ("run.device=cuda", f"run.dtype={dtype}", "run.activation_checkpointing=true")
    result = predict(write_yaml("audio", run=UNCACHED), *overrides)
    assert result.fits is None
    assert OPTIMIZER in result.largest.at_peak  # fp16: no step is skipped


@pytest.mark.slow
def test_a_quantized_decoder_needs_less(write_yaml: Write, packable: Path) -> None:
    path = write_yaml(model={"pretrained": str(packable), "lora": {"r": 2}}, run={"device": "cuda"})
    sizes = [predict(path, f"model.quantization={kind}").largest.at_peak[PARAMETERS] for kind in ("null", "int8")]
    assert sizes[1] < sizes[0]


@pytest.mark.slow
def test_remedies(write_yaml: Write) -> None:
    path = write_yaml(run=UNCACHED | {"device": "cuda"})
    tried = list(remedies(path, ["model.freeze_llama=false"], DryRunOptions(gpu_memory=10**6, world_size=2)))
    half, again, sharded = "run.batch_size_train=2", "run.activation_checkpointing=true", "run.distributed_mode=fsdp2"
    changes = [changes for changes, _ in tried]
    accumulated = "run.accum_grad_iters=2"
    assert changes == [(half, accumulated), (again,), (sharded,), (half, accumulated, again, sharded)]
    assert not any(result.fits for _, result in tried)
    assert min(tried, key=lambda each: each[1].peak)[0] == changes[-1]


def test_too_few_tokens_for_the_media(write_yaml: Write) -> None:
    with pytest.raises(ValueError, match="rows of 16 tokens have no place for the media"):
        predict(write_yaml("vision", model={"pretrained": None}), size="7b", num_tokens=16)


def test_settings_that_contradict_each_other(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match="fp16 is not supported with fsdp2"):
        predict(write_yaml(), "run.dtype=fp16", "run.distributed_mode=fsdp2", "run.device=cuda")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_published_recipes_at_7b(recipe: Path) -> None:
    """Without weights and data: the parameters are those of the published model, and the encoders are in bfloat16."""
    result = predict(recipe, "run.cache_features=false", "model.lora.r=8", size="7b", num_tokens=64)
    assert 7.8e9 < result.num_parameters < 8.7e9
    assert 15.5e9 < result.largest.at_peak[PARAMETERS] < 18e9
    assert result.steps_per_epoch == 2500 or result.steps_per_epoch in (1000, 5000)


def measured(path: Path, overrides: list[str], processes: int) -> dict[str, int]:
    script = [str(ROOT / "benchmarks" / "train_step_memory.py"), str(path), "--tokens", "128"]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    changes = [part for each in overrides for part in ("--set", each)]
    done = subprocess.run(
        [sys.executable, *launch, *script, *changes],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ | HEAP,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "processes"), [("ddp", 1), ("ddp", 2), ("fsdp2", 2)])
def test_within_a_tenth_of_a_real_step(write_yaml: Write, tmp_path: Path, mode: str, processes: int) -> None:
    """A model of 0.6 billion parameters: the resident memory of the process, above that before the model."""
    path = write_yaml(model={"pretrained": str(write_folder(tmp_path / "mid"))}, run=UNCACHED)
    overrides = ["run.batch_size_train=1", f"run.distributed_mode={mode}"]
    real = measured(path, overrides, processes)
    predicted = predict(path, *overrides, world_size=processes, num_tokens=128)
    assert predicted.largest.peak == pytest.approx(real["step"], rel=TOLERANCE)
