"""The miniature's answers about new clips through ``video-llama evaluate``, ``batch`` and lmms-eval.

    python benchmarks/evaluate_miniature.py FOLDER [--num-clips 200] [--seed 5] [--lmms-python PYTHON] [--ray]

Writes clips of the miniature's world and a file of questions to FOLDER, answers them with each (with lmms-eval if
PYTHON has it installed, and ``batch --engine ray`` with ``--ray``), and prints the times, and how many prompts and
answers are identical with those of ``evaluate``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from video_llama.miniature.dataset import read_scenes, write_dataset
from video_llama.miniature.evaluation import EVALUATION_TWO_PART_SHARE, TEST_SOUNDS
from video_llama.miniature.questions import question

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("colour", "hear")
MAX_NEW_TOKENS = 48
BATCH_SIZE = 8


def write_questions(folder: Path, num_clips: int, seed: int) -> Path:
    """Write the clips and questions.jsonl, with a question of each kind about each clip."""
    write_dataset(
        folder / "clips",
        num_clips=num_clips,
        seed=seed,
        split="test",
        two_part_share=EVALUATION_TWO_PART_SHARE,
        sounds=TEST_SOUNDS,
    )
    rng, path = np.random.default_rng(seed), folder / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, (clip, scene) in enumerate(read_scenes(folder / "clips")):
            for kind in KINDS:
                qa = question(scene, kind, rng)
                row = {"id": f"{number}-{kind}", "media": str(clip), "question": qa.question, "answer": qa.answer}
                file.write(json.dumps({**row, "category": kind}) + "\n")
    return path


def run(command: Sequence[str], **variables: str) -> float:
    """Run a command, and return its seconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **variables})
    return time.perf_counter() - start


def command_of(start: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """Return a command with its options as ``--name value``."""
    return [*start, *(text for name, value in options.items() for text in (f"--{name}", value))]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_lmms_eval(python: str, questions: Path, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Evaluate with lmms-eval, and return its seconds and the records of its answers."""
    records = folder / "lmms-records.jsonl"
    records.unlink(missing_ok=True)
    options = {
        "model": "video_llama",
        "model_args": f"pretrained=miniature,device=cpu,record_file={records}",
        "tasks": "question_rows",
        "include_path": str(ROOT / "video_llama" / "evaluation" / "tasks"),
        "batch_size": str(BATCH_SIZE),
        "gen_kwargs": f"max_new_tokens={MAX_NEW_TOKENS}",
        "output_path": str(folder / "lmms"),
    }
    seconds = run(
        command_of([python, "-m", "lmms_eval"], options),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(folder / "hf"),
        VIDEO_LLAMA_QUESTION_ROWS=str(questions),
    )
    return seconds, read(records)


def with_batch(engine: str, questions: Path, folder: Path) -> tuple[float, dict[str, dict[str, Any]]]:
    """Answer with ``video-llama batch``, and return its seconds and the rows by id."""
    output = folder / f"batch-{engine}.jsonl"
    for old in (output, output.with_name(f"{output.name}.settings.json")):
        old.unlink(missing_ok=True)
    start = [sys.executable, "-m", "video_llama", "batch", str(questions), str(output)]
    options = {
        "engine": engine,
        "device": "cpu",
        "max-new-tokens": str(MAX_NEW_TOKENS),
        "batch-size": str(BATCH_SIZE),
    }
    seconds = run(command_of(start, options))
    return seconds, {row["id"]: row for row in read(output)}


def print_equality(name: str, seconds: float, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Print how many prompts and answers of ``evaluate`` another way of answering has as well."""
    prompts = sum(a["record"]["prompt_sha256"] == b["prompt_sha256"] for a, b in pairs)
    answers = sum(a["answer"] == b["answer"] for a, b in pairs)
    print(f"{name}: {seconds:.0f} s; identical: {prompts} prompts and {answers} answers of {len(pairs)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the clips and results")
    parser.add_argument("--num-clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--lmms-python", help="Python of an environment with lmms-eval")
    parser.add_argument("--ray", action="store_true", help="also run batch --engine ray")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(machine())
    questions = write_questions(folder, options.num_clips, options.seed)
    own = {
        "output": str(folder / "evaluate"),
        "device": "cpu",
        "max-new-tokens": str(MAX_NEW_TOKENS),
        "batch-size": str(BATCH_SIZE),
    }
    seconds = run(command_of([sys.executable, "-m", "video_llama", "evaluate", str(questions)], own))
    ours = read(folder / "evaluate" / "answers.jsonl")
    print(f"evaluate: {len(ours)} questions about {options.num_clips} clips in {seconds:.0f} s")
    if options.lmms_python:
        seconds, theirs = with_lmms_eval(options.lmms_python, questions, folder)
        print_equality("lmms-eval", seconds, list(zip(ours, theirs, strict=True)))
    for engine in ("local", "ray") if options.ray else ("local",):
        seconds, rows = with_batch(engine, questions, folder)
        pairs = [(row, rows[row["id"]]["record"] | {"answer": rows[row["id"]]["answer"]}) for row in ours]
        print_equality(f"batch --engine {engine}", seconds, pairs)


if __name__ == "__main__":
    main()
