"""Run the stages of a build in worker processes, in the order of their dependencies and in parallel where possible.

Input: a root folder, a seed and named stages. Output: the files that the stages write, and ``NAME.done`` in the root
folder for each finished stage. A second call runs only the stages that are not finished.
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

import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from video_llama.errors import CheckpointError
from video_llama.files import replace_text
from video_llama.log import logger

POLL_SECONDS = 1.0
RUN_SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class BuildStage:
    """One stage of a build."""

    needs: tuple[str, ...]
    """Names of the stages that must be finished first."""
    make: Callable[[Path, int], None]
    """Called with the root folder and the seed, in a worker process; must be picklable."""
    metrics_folders: tuple[str, ...] = ()
    """Folders below the root whose ``metrics.jsonl`` shows the progress, the latest first (default: the stage's
    name)."""


def run_stages(root: Path, stages: Mapping[str, BuildStage], *, seed: int = 0, workers: int = 2) -> None:
    """Run the stages that are not finished.

    Args:
        root: folder for all files of the build.
        stages: the stages by name. The ``needs`` of every stage must be among them.
        seed: random seed, passed to every stage.
        workers: number of stages that run in parallel, each on one core.

    Raises:
        CheckpointError: ``root`` was made with another seed.
    """
    _check_seed(root, seed)
    done = {name for name in stages if _mark(root, name).exists()}
    if left := [name for name in stages if name not in done]:
        logger.info("%s: %d of %d stages to run: %s", root, len(left), len(stages), ", ".join(left))
    running: dict[Future[float], str] = {}
    with _pool(workers) as pool, _status_table(root, stages) as show:
        while len(done) < len(stages):
            for name in _ready(stages, done, set(running.values()), workers - len(running)):
                running[pool.submit(_run_stage, stages[name], _mark(root, name), root, seed)] = name
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                logger.info("%s: done in %.0f s", name, future.result())
                done.add(name)
            show(done, set(running.values()))


def _ready(stages: Mapping[str, BuildStage], done: set[str], running: set[str], count: int) -> list[str]:
    """Return at most ``count`` stages that can start now."""
    free = [name for name, stage in stages.items() if name not in done | running and done.issuperset(stage.needs)]
    return free[: max(count, 0)]


def _run_stage(stage: BuildStage, mark: Path, root: Path, seed: int) -> float:
    """Run a stage in this process on one core, mark it as finished, and return the seconds it took."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    stage.make(root, seed)
    seconds = time.perf_counter() - start
    replace_text(mark, json.dumps({"seconds": seconds}))
    return seconds


def _mark(root: Path, name: str) -> Path:
    return root / f"{name}.done"


def _check_seed(root: Path, seed: int) -> None:
    path = root / RUN_SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["seed"]
        if found != seed:
            raise CheckpointError(f"{root} was made with --seed {found}. Use that seed or another --output folder.")
    replace_text(path, json.dumps({"seed": seed}))


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of worker processes. On an interrupt the workers are not waited for; their stages can be resumed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(
        max(workers, 1), mp_context=get_context("spawn"), initializer=_exit_with_parent, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _exit_with_parent(parent: int) -> None:
    """Exit this process when its parent has exited or was killed; every stage can be resumed from its checkpoint."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _status_table(root: Path, stages: Mapping[str, BuildStage]) -> Iterator[Callable[[set[str], set[str]], None]]:
    """Show one line per stage on the terminal (waiting, step and loss, or done); yield a function that updates it."""
    console = Console(stderr=True)

    def table(done: set[str], running: set[str]) -> Table:
        rows = Table("stage", "state", box=None)
        for name, stage in stages.items():
            folders = [root / folder for folder in stage.metrics_folders or (name,)]
            rows.add_row(name, "done" if name in done else _progress(folders) if name in running else "waiting")
        return rows

    if not console.is_terminal:
        yield lambda done, running: None
        return
    with Live(table(set(), set()), console=console, transient=True, refresh_per_second=1) as live:
        yield lambda done, running: live.update(table(done, running))


def _progress(folders: Iterable[Path]) -> str:
    """Return the step and the loss of the last line in the first ``metrics.jsonl`` that exists."""
    for folder in folders:
        path = folder / "metrics.jsonl"
        if path.is_file() and (lines := path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(lines[-1])
            return f"running, step {row['step']}, loss {row['loss']:.3f}"
    return "running"
