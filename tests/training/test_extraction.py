"""``extract-features`` computes the features that the run reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from video_llama.cli import app
from video_llama.datasets.features import FeatureStore
from video_llama.training.run import train_from_config

Write = Callable[..., Path]


def run_command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def valid_loss(run: Path) -> float:
    return float(json.loads((run / "valid.jsonl").read_text())["loss"])


def test_a_run_reads_the_extracted_features(write_yaml: Write, clips: Path, tmp_path: Path) -> None:
    info = {"anno_dir": str(clips / "captions"), "videos_dir": str(clips / "videos")}
    held_out = {"format": "webvid", "build_info": info, "vis_processor": {"train": {"n_frms": 3}}}
    run = {"valid_every_steps": 1}
    path = write_yaml(valid={"held_out": held_out}, run=run)
    done = run_command("extract-features", str(path))
    assert done.exit_code == 0, done.output
    num_questions = len(json.loads((clips / "questions_seeing.json").read_text()))
    assert f"webvid_instruct: {num_questions} samples\nheld_out: 12 samples" in done.stdout
    (folder,) = (path for path in (tmp_path / "features").iterdir() if path.is_dir())
    assert len(FeatureStore(folder)) == 24  # twelve clips with four frames, and with three
    shards = {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "features").rglob("*.safetensors")}
    assert shards
    cached = train_from_config(path, max_steps=1)
    uncached = write_yaml(name="uncached", valid={"held_out": held_out}, run={**run, "cache_features": False})
    assert valid_loss(cached) == valid_loss(train_from_config(uncached, max_steps=1))
    assert {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "features").rglob("*.safetensors")} == shards
    assert run_command("extract-features", str(path), "--set", "run.cache_features=false").exit_code == 2
