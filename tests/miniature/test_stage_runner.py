"""Stages run in the order of their dependencies, once each, in worker processes that exit with the command.

The workers import this module: its imports are few.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from video_llama.errors import CheckpointError
from video_llama.miniature import stage_runner
from video_llama.miniature.stage_runner import BuildStage, run_stages


def write_first(root: Path, seed: int) -> None:
    with (root / "log").open("a") as file:
        file.write(f"first {seed}\n")


def write_second(root: Path, seed: int) -> None:
    assert (root / "log").exists()
    with (root / "log").open("a") as file:
        file.write("second\n")


def fail_once(root: Path, seed: int) -> None:
    if not (root / "failed").exists():
        (root / "failed").touch()
        raise CheckpointError("failed once")


ORDERED = {"second": BuildStage(("first",), write_second), "first": BuildStage((), write_first)}


def test_stages_run_once_and_after_those_they_need(tmp_path: Path) -> None:
    for _ in range(2):
        run_stages(tmp_path, ORDERED, seed=3)
    assert (tmp_path / "log").read_text() == "first 3\nsecond\n"


def test_a_failed_stage_runs_again_and_finished_ones_do_not(tmp_path: Path) -> None:
    stages = {"first": BuildStage((), write_first), "fails": BuildStage(("first",), fail_once)}
    with pytest.raises(CheckpointError, match="failed once"):
        run_stages(tmp_path, stages)
    run_stages(tmp_path, stages)
    assert (tmp_path / "log").read_text() == "first 0\n"
    assert (tmp_path / "fails.done").exists()


def test_another_seed_is_an_error(tmp_path: Path) -> None:
    run_stages(tmp_path, ORDERED, seed=3)
    with pytest.raises(CheckpointError, match="was made with --seed 3"):
        run_stages(tmp_path, ORDERED, seed=4)


def sleep_long(root: Path, seed: int) -> None:
    (root / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_exit_when_the_command_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.miniature.test_stage_runner import *\n"
        "if __name__ == '__main__':\n"
        f"    run_stages(Path({str(tmp_path)!r}), {{'sleeps': BuildStage((), sleep_long)}})\n"
    )
    script = tmp_path / "command.py"
    script.write_text(code)
    root = str(Path(__file__).resolve().parents[2])
    command = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root})
    worker = wait_for(lambda: int(text) if (text := read(tmp_path / "pid")) else None)
    assert is_running(worker)
    command.kill()
    command.wait()
    assert wait_for(lambda: True if not is_running(worker) else None)


def wait_for(look):
    """Return the result of ``look`` as soon as it is not None."""
    for _ in range(600):
        if (found := look()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("no result within a minute")


def test_progress_is_the_last_line_of_the_latest_folder(tmp_path: Path) -> None:
    folders = [tmp_path / "later", tmp_path / "earlier"]
    assert stage_runner._progress(folders) == "running"
    for folder, loss in zip(reversed(folders), (2.0, 1.0), strict=True):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 9}}\n{{"step": 2, "loss": {loss}}}\n')
        assert stage_runner._progress(folders) == f"running, step 2, loss {loss:.3f}"
