"""The Ray engine with real Ray, bounded to two cores and 100 MB: the answers of the local engine, killed processes."""

import os
import signal
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.apps.batch.conftest import QUESTIONS, default_media, read_jsonl, write_rows
from tests.cli.conftest import start
from video_llama.apps.batch.bulk_answering import load_bulk_answerer
from video_llama.apps.batch.engines import EngineOptions, make_engine
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.run import run_batch
from video_llama.chat import Decoding
from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import ModelOptions
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import CheckpointError
from video_llama.processors.windows import WindowPlan

pytest.importorskip("ray", reason="ray is not installed: pip install '.[scale]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORE_BYTES = 100_000_000


@pytest.fixture(scope="module")
def ray_engine():
    """Ray on this machine, started once, with room for a reader and two workers."""
    import ray

    from video_llama.apps.ray_start import start_ray

    assert start_ray(None, 3, STORE_BYTES)
    yield EngineOptions("ray")
    ray.shutdown()


def by_id(path):
    rows = read_jsonl(path)
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id occurs twice"
    return found


def test_the_answers_are_those_of_the_local_engine(finished, make_config, load, ray_engine):
    config, summary = finished
    ray_config = make_config("ray.jsonl", engine=ray_engine)
    ray_summary = run_batch(ray_config, load)
    assert by_id(ray_config.output) == by_id(config.output)
    kept = ("rows", "answers", "errors", "new_rows")
    assert {name: ray_summary[name] for name in kept} == {name: summary[name] for name in kept}
    assert ray_summary["media"] == summary["media"] + 1, "each actor reads the medium that two batches share"
    assert ray_summary["stages"]["decode"] > 0
    assert run_batch(ray_config, load)["new_rows"] == 0


def test_windows(make_config, load, ray_engine):
    config = make_config(windows=WindowPlan(0.5))
    run_batch(config, load)
    ray_config = make_config("ray.jsonl", windows=WindowPlan(0.5), engine=ray_engine)
    run_batch(ray_config, load)
    assert by_id(ray_config.output) == by_id(config.output)


def test_a_run_of_one_engine_is_continued_by_the_other(finished, make_config, load, ray_engine):
    config, _ = finished
    whole = by_id(config.output)
    config.output.write_bytes(b"".join(config.output.read_bytes().splitlines(keepends=True)[:2]))
    assert run_batch(replace(config, engine=ray_engine), load)["new_rows"] == 4
    assert by_id(config.output) == whole


def test_killed_actors_are_replaced(load, clips, ray_engine):
    """Kills a process that reads, when it has started, and one that answers; every batch has one result."""
    rows = [QuestionRow(str(n), (str(clips["video"]),), QUESTIONS[n % 2]) for n in range(24)]
    worker = partial(load_bulk_answerer, load, Decoding(max_new_tokens=4))
    limits = BatchLimits(media_workers=1)
    killed, results = [], []

    def kill(actor):
        os.kill(process_of(actor), signal.SIGKILL)
        killed.append(actor)

    killer = threading.Thread(target=kill, args=["ReadingActor"])
    with closing(make_engine(replace(ray_engine, max_workers=2), worker, 1, limits, 1)) as engine:
        media = default_media(engine.description().needs.settings.num_frames)
        killer.start()
        for result in engine.results([[row] for row in rows], media):
            results += result.rows
            if len(results) == 4:
                kill("AnsweringActor")
    killer.join()
    assert killed == ["ReadingActor", "AnsweringActor"]
    assert sorted(int(row["id"]) for row in results) == list(range(24))
    assert [row["error"] for row in results] == [None] * 24
    assert engine.times.num_media == 24


def process_of(actor):
    """Wait for a process of this actor and return its id. Ray puts the class into the name of the process."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and f"MapBatches({actor})" in (folder / "cmdline").read_text(errors="replace"):
                    return int(folder.name)
        time.sleep(0.05)
    raise AssertionError(f"no process of {actor}")


def test_errors_of_the_model_are_reported(make_config, ray_engine, tmp_path):
    (tmp_path / "empty").mkdir()
    load = partial(load_for_worker, ModelOptions(model=str(tmp_path / "empty")))
    with pytest.raises(CheckpointError):
        run_batch(make_config(engine=ray_engine), load)


def test_a_killed_run_is_continued(clips, model_path, tmp_path):
    """``kill -9`` of the driver, which ends its Ray; the same command writes the missing rows."""
    rows = [{"id": str(n), "media": clips["video"].name, "question": QUESTIONS[0]} for n in range(40)]
    table = write_rows(clips["video"].parent / "many-ray.jsonl", rows)
    output = tmp_path / "out.jsonl"

    def command():
        options = ("--model", model_path, "--device", "cpu", "--batch-size", 1, "--max-new-tokens", 4)
        limits = ("--set", f"object_store_bytes={STORE_BYTES}", "--set", "media_workers=1")
        return start("batch", table, output, "--engine", "ray", *options, *limits)

    process = command()
    while not output.exists() or output.read_bytes().count(b"\n") < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = [line for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    process = command()
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "40 rows, 40 answered, 0 with errors" in printed
    assert by_id(output).keys() == {row["id"] for row in rows}
    assert output.read_bytes().startswith(b"".join(kept))
    assert 0 < len(kept) < 40
