"""Make the miniature from nothing: its world, its frozen parts, both branches in two stages each, its weights.

In: a seed and an empty folder. Out: that folder with every stage's state, and ``weights/``, a model folder. Stages
that do not need each other run side by side; each goes on where it was cut off, and a finished one is kept.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from video_llama.errors import CheckpointError
from video_llama.files import replace_text
from video_llama.log import logger
from video_llama.miniature.recipe import LANGUAGE

POLL_SECONDS = 1.0
SETTINGS_FILE = "settings.json"

DEFAULT_ROOT = Path("runs/miniature")
"""The root that the paths in train_configs/miniature/*.yaml begin with."""


@dataclass(frozen=True)
class BuildStage:
    """A step of the making: what must be there before it, and what it does with (root folder, seed)."""

    needs: tuple[str, ...]
    make: Callable[[Path, int], None]


def _make_tokenizer(root: Path, seed: int) -> None:
    from video_llama.miniature.tokenizer import train_tokenizer

    train_tokenizer(root / "tokenizer.model", seed)


def _make_language(root: Path, seed: int) -> None:
    from video_llama.miniature.pretrain_language import pretrain_language

    pretrain_language(root / "tokenizer.model", root, seed)


def _make_frames(root: Path, seed: int) -> None:
    from video_llama.miniature.pretrain_vision import pretrain_frames

    pretrain_frames(root / "frames", seed)


def _make_imagebind(root: Path, seed: int) -> None:
    from video_llama.miniature.pretrain_imagebind import bind
    from video_llama.miniature.pretrain_vision import pretrain_tower

    bind(pretrain_tower(root / "imagebind_vision", seed), root / "imagebind", seed)


def _make_data(root: Path, seed: int) -> None:
    from video_llama.miniature.dataset import write_training_clips

    write_training_clips(root, seed=seed, workers=1)


def _make_base(root: Path, seed: int) -> None:
    from video_llama.miniature.assemble import Backbones, write_base
    from video_llama.miniature.pretrain_imagebind import bind
    from video_llama.miniature.pretrain_language import pretrain_language
    from video_llama.miniature.pretrain_vision import pretrain_frames, pretrain_tower

    tokenizer_path = root / "tokenizer.model"
    vision, audio = bind(pretrain_tower(root / "imagebind_vision", seed), root / "imagebind", seed)
    language = pretrain_language(tokenizer_path, root, seed)
    backbones = Backbones(language, pretrain_frames(root / "frames", seed), vision, audio)
    write_base(root / "base", backbones, tokenizer_path, seed)


def _make_weights(root: Path, seed: int) -> None:
    from video_llama.miniature.assemble import write_weights

    write_weights(root / "weights", root / "base", [root / "vision2", root / "audio2"], seed)


@dataclass(frozen=True)
class _BranchMake:
    """``make`` of a stage that the trainer runs; a class, since worker processes have to be given it."""

    config_name: str

    def __call__(self, root: Path, seed: int) -> None:
        from video_llama.training.run import train_from_config

        overrides = [*moved_paths(self.config_name, root), f"run.seed={seed}"]
        train_from_config(config_path(self.config_name), overrides, resume="auto")


STAGES: dict[str, BuildStage] = {
    "tokenizer": BuildStage((), _make_tokenizer),
    "language": BuildStage(("tokenizer",), _make_language),
    "frames": BuildStage((), _make_frames),
    "imagebind": BuildStage((), _make_imagebind),
    "data": BuildStage((), _make_data),
    "base": BuildStage(("language", "frames", "imagebind"), _make_base),
    "vision1": BuildStage(("base", "data"), _BranchMake("visionbranch_stage1_pretrain")),
    "vision2": BuildStage(("vision1",), _BranchMake("visionbranch_stage2_finetune")),
    "audio1": BuildStage(("base", "data"), _BranchMake("audiobranch_stage1_pretrain")),
    "audio2": BuildStage(("audio1",), _BranchMake("audiobranch_stage2_finetune")),
    "weights": BuildStage(("vision2", "audio2"), _make_weights),
}


STAGE_FOLDERS = {
    "language": tuple(phase.name for phase in reversed(LANGUAGE)),
    "imagebind": ("imagebind", "imagebind_vision"),
}
"""The folders of a stage that has several, the later ones first."""


def config_path(name: str) -> Path:
    """The YAML of a branch's stage: in the installed package, or in the checkout's ``train_configs/miniature``."""
    package = Path(__file__).resolve().parent
    for folder in (package / "train_configs", package.parents[1] / "train_configs" / "miniature"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise CheckpointError(f"train_configs/miniature/{name}.yaml is missing. Install the package again.")


def moved_paths(name: str, root: Path) -> list[str]:
    """Overrides that put another root in the place of ``runs/miniature`` in a YAML's paths."""
    from video_llama.config import load_yaml

    def walk(value: object, keys: tuple[str, ...]) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, (*keys, str(key)))
        elif isinstance(value, str) and value.startswith(f"{DEFAULT_ROOT}/"):
            yield f"{'.'.join(keys)}={root / Path(value).relative_to(DEFAULT_ROOT)}"

    return list(walk(load_yaml(config_path(name)), ()))


def train_miniature(
    root: str | Path = DEFAULT_ROOT, *, seed: int = 0, workers: int = 2, stages: Mapping[str, BuildStage] = STAGES
) -> Path:
    """Make the miniature, or what is left of it, and return the folder of its weights.

    Args:
        root: where everything is kept; one that was begun with another seed is refused.
        seed: of data, initial weights and batches.
        workers: stages that run side by side, each on one core.
        stages: what there is to do; every one's needs are among them.

    Raises:
        CheckpointError: the folder belongs to another seed.
    """
    root = Path(root)
    _check_seed(root, seed)
    done = {name for name in stages if _mark(root, name).exists()}
    if left := [name for name in stages if name not in done]:
        logger.info("%s: %d of %d stages are left: %s", root, len(left), len(stages), ", ".join(left))
    running: dict[Future[float], str] = {}
    with _pool(workers) as pool, _board(root, stages) as show:
        while len(done) < len(stages):
            for name in _ready(stages, done, set(running.values()), workers - len(running)):
                running[pool.submit(_run_stage, stages[name], _mark(root, name), root, seed)] = name
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                logger.info("%s: done, %.0f s in this run", name, future.result())
                done.add(name)
            show(done, set(running.values()))
    return root / "weights"


def install_weights(weights: Path) -> Path:
    """Put a folder of weights into the package, in the place of those shipped; returns the place."""
    import shutil

    target = Path(__file__).resolve().parent / "weights"
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.copytree(weights, unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target


def _ready(stages: Mapping[str, BuildStage], done: set[str], running: set[str], count: int) -> list[str]:
    """At most ``count`` stages that can begin now."""
    free = [name for name, stage in stages.items() if name not in done | running and done.issuperset(stage.needs)]
    return free[: max(count, 0)]


def _run_stage(stage: BuildStage, mark: Path, root: Path, seed: int) -> float:
    """Run a stage in this process, on one core, and write its mark; returns the seconds."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    stage.make(root, seed)
    seconds = time.perf_counter() - start
    replace_text(mark, json.dumps({"seconds": seconds}))
    return seconds


def _mark(root: Path, name: str) -> Path:
    return root / f"{name}.done"


def _check_seed(root: Path, seed: int) -> None:
    path = root / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["seed"]
        if found != seed:
            raise CheckpointError(f"{root} was begun with --seed {found}. Use that seed, or another --output folder.")
    replace_text(path, json.dumps({"seed": seed}))


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that go away with their work unfinished when this one is interrupted; they can go on later."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(
        max(workers, 1), mp_context=get_context("spawn"), initializer=_leave_with, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _leave_with(parent: int) -> None:
    """End this process when the one that started it is gone, killed perhaps: every stage can go on from its state."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _board(root: Path, names: Iterable[str]) -> Iterator[Callable[[set[str], set[str]], None]]:
    """A line for each stage on the terminal: waiting, its step and loss, or done."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    console = Console(stderr=True)

    def table(done: set[str], running: set[str]) -> Table:
        board = Table("stage", "state", box=None)
        for name in names:
            state = "done" if name in done else _latest(root, name) if name in running else "waiting"
            board.add_row(name, state)
        return board

    if not console.is_terminal:
        yield lambda done, running: None
        return
    with Live(table(set(), set()), console=console, transient=True, refresh_per_second=1) as live:
        yield lambda done, running: live.update(table(done, running))


def _latest(root: Path, name: str) -> str:
    """The newest line of a stage's ``metrics.jsonl``, in words."""
    for part in STAGE_FOLDERS.get(name, (name,)):
        path = root / part / "metrics.jsonl"
        if path.is_file() and (lines := path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(lines[-1])
            return f"running, step {row['step']}, loss {row['loss']:.3f}"
    return "running"
