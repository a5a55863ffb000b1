"""Run the benchmarks that need no arguments and write their output to docs/benchmarks.md.

    python benchmarks/bench.py [--only NAME ...] [--out docs/benchmarks.md]

Takes about ten minutes on two idle cores. Every part prints ratios to a stated baseline, or shares of the limits that
``video-llama benchmark`` measures first. Compare figures of one run only.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from video_llama.models.cpu import processor

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "transformers", "numpy", "av")
MAX_SECONDS = 420


@dataclass(frozen=True)
class Part:
    """One benchmark: a title, what its figures are, and the arguments of Python."""

    name: str
    title: str
    text: str
    arguments: tuple[str, ...]


PARTS = (
    Part(
        "forms",
        "Limits of the machine, and forms of a 7B model",
        "Seconds to encode a video of 8 frames and 8 sound clips, and to the first token of a prompt of 110 tokens, "
        "tokens per second, their share of the memory bandwidth, and seconds for an answer of 50 tokens, each as "
        "median (shortest-longest). `as stored` is a bfloat16 folder; `bfloat16` computes in it even if the processor "
        "emulates it, which was the form before `float16 weights` existed.",
        ("-m", "video_llama", "benchmark", "--size", "7b", "--emulated"),
    ),
    Part("linear", "Kernels of a linear layer", "Milliseconds and errors by kernel.", ("benchmarks/bench_linear.py",)),
    Part(
        "ask",
        "Start, conversations and batches with the miniature",
        "Ratios; below 1 is faster than the baseline after the slash.",
        ("benchmarks/bench_ask.py", "--runs", "3"),
    ),
    Part("audio", "Sound", "The whole track against its clips.", ("benchmarks/bench_audio.py", "--long", "10")),
    Part("video", "Video decoding against decord", "Below 1 is faster.", ("benchmarks/bench_video_decode.py",)),
    Part(
        "serve",
        "HTTP server",
        "Throughput and latency by number of clients.",
        ("benchmarks/bench_serve.py", "--requests", "48", "--clients", "1", "8", "32"),
    ),
    Part(
        "train",
        "Training steps at the size of the miniature",
        "Rows per second by stage, from files and from cached features.",
        ("benchmarks/bench_train_step.py", "--steps", "8", "--clips", "24", "--rows", "8", "--processes", "2"),
    ),
)


def run_part(part: Part) -> str:
    """Run one benchmark; return its output, or what went wrong."""
    start = time.perf_counter()
    try:
        run = subprocess.run(
            [sys.executable, "-W", "ignore", *part.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {MAX_SECONDS} s"
    print(run.stdout, f"[{part.name}: {time.perf_counter() - start:.0f} s]", sep="", flush=True)
    return run.stdout.rstrip() if run.returncode == 0 else f"failed: {run.stderr.strip().splitlines()[-1]}"


def page(outputs: dict[str, str], seconds: float) -> str:
    """Return docs/benchmarks.md."""
    cpu = processor()
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    lines = [
        "# Benchmarks",
        "",
        "```bash",
        "make bench                        # measure this machine and write this page",
        "video-llama benchmark             # which form of a 7B model is fastest on this CPU",
        "```",
        "",
        f"Written by `python benchmarks/bench.py` on {datetime.date.today()} in {seconds:.0f} s: {cpu.name} "
        f"({', '.join(cpu.instruction_sets)}), {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, Python {platform.python_version()}, "
        f"{libraries}. Other machines give other figures; compare only figures of one page. Experiments are in the "
        "[log](log.md). No GPU was used: [GPU](gpu.md).",
    ]
    for part in PARTS:
        if part.name in outputs:
            command = " ".join(("python", *part.arguments)).replace("python -m video_llama", "video-llama")
            lines += ["", f"## {part.title}", "", part.text, "", "```", f"$ {command}", outputs[part.name], "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    start = time.perf_counter()
    outputs = {part.name: run_part(part) for part in PARTS if part.name in options.only}
    options.out.write_text(page(outputs, time.perf_counter() - start), encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
