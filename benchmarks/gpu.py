"""Check and measure the model on a GPU: conformance, speed against the card's own ceilings, memory against prediction.

    python benchmarks/gpu.py [--minutes 8] [--out gpu.json] [--packages FOLDER]
    python benchmarks/gpu.py --device cpu --tiny            # check this script without a GPU

Needs Python, torch, transformers, safetensors, sentencepiece, numpy and accelerate, and no network, no weights and no
media. The steps of training and serving also need pydantic and PyYAML; ``--packages`` is a folder with packages that
are not installed (pip install --target). PyAV and Pillow are not needed.

Prints a line for each result, the most valuable steps first. When the time is up, the remaining steps are left out. A
step that fails is reported with its error, and the next one runs. At the end it prints one table and writes all results
to the JSON file, which is also updated after every step.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STEPS = (
    ("gpu_inference", "conformance", 20),
    ("gpu_inference", "ceilings", 5),
    ("gpu_inference", "encode", 20),
    ("gpu_inference", "first_token", 5),
    ("gpu_inference", "decode", 40),
    ("gpu_training", "train", 90),
    ("gpu_training", "serve", 60),
    ("gpu_inference", "decode_static", 20),
    ("gpu_inference", "quantized", 60),
    ("gpu_inference", "decode_compiled", 90),
    ("gpu_inference", "gpu_tests", 60),
)
"""Module, function, and the seconds that must be left for the step to start; by value."""


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all steps (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file of the results (default: gpu.json)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="7b", choices=("7b", "13b"))
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to check this script")
    parser.add_argument("--packages", type=Path, help="folder with packages that are not installed")
    parser.add_argument("--steps", nargs="+", choices=[name for _, name, _ in STEPS], help="only these steps")
    parser.add_argument("--predict", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def machine(bench: Any) -> dict[str, Any]:
    """Return the card, and the versions of what runs on it."""
    import torch
    import transformers

    card = torch.cuda.get_device_properties(0) if bench.is_cuda else None
    return {
        "device": card.name if card else platform.processor() or platform.machine(),
        "memory_bytes": card.total_memory if card else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "model": bench.size,
    }


def step_of(module: str, name: str) -> Callable[[Any], Iterator[dict[str, Any]]]:
    """Import a step. Raises ImportError if a package that it needs is missing."""
    imported = __import__(f"benchmarks.{module}", fromlist=[name])
    step: Callable[[Any], Iterator[dict[str, Any]]] = getattr(imported, name)
    return step


def run_step(bench: Any, module: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the results of a step; an exception becomes a result, too."""
    start = time.perf_counter()
    try:
        for result in step_of(module, name)(bench):
            yield {"step": name, **result}
    except ImportError as error:
        yield {"step": name, "what": name, "skipped": str(error)}
    except Exception as error:
        traceback.print_exc()
        yield {"step": name, "what": name, "failed": f"{type(error).__name__}: {str(error)[:300]}"}
    print(f"[{time.perf_counter() - START:6.1f} s] {name} took {time.perf_counter() - start:.1f} s", flush=True)


def text_of(result: dict[str, Any]) -> str:
    """Return a result as one line."""
    facts = [f"{key} {value}" for key, value in result.items() if key not in ("step", "what") and value is not None]
    return f"{result['what']}: {', '.join(facts)}"


def table(results: list[dict[str, Any]]) -> str:
    """Return all results as a Markdown table."""
    rows = []
    for result in results:
        what, _, facts = text_of(result).partition(": ")
        rows.append(f"| {what} | {facts} |")
    return "\n".join(["| what | result |", "|---|---|", *rows])


def start_predictions(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    """Predict the memory of the training steps in another process, on the CPU, while the GPU is busy."""
    command = [sys.executable, __file__, "--predict", "--out", str(out), "--device", arguments.device]
    command += ["--size", arguments.size]
    command += ["--packages", str(arguments.packages)] if arguments.packages else []
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    arguments = arguments_of()
    if arguments.packages is not None:
        sys.path.append(str(arguments.packages))
    from benchmarks.bare_machine import add_stand_ins

    missing = add_stand_ins()
    import torch

    from benchmarks.gpu_timing import Bench

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device is available. Check the script with: --device cpu --tiny", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    bench = Bench(torch.device(arguments.device), "tiny" if arguments.tiny else arguments.size, arguments.tiny)
    if arguments.predict:
        arguments.out.write_text(json.dumps(step_of("gpu_training", "predictions")(bench)), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        predicted = Path(folder) / "predicted.json"
        predicting = None if arguments.tiny else start_predictions(arguments, predicted)
        try:
            return run_steps(bench, arguments, missing, predicted)
        finally:
            if predicting is not None:
                predicting.terminate()
                predicting.wait()


def run_steps(bench: Any, arguments: argparse.Namespace, missing: list[str], predicted: Path) -> int:
    """Run the steps until the time is up, and write the results. Return 1 if a step failed."""
    report: dict[str, Any] = {"machine": machine(bench), "not_installed": missing, "results": [], "left_out": []}
    print(json.dumps(report["machine"]), flush=True)
    for module, name, needed in STEPS:
        if arguments.steps and name not in arguments.steps:
            continue
        left = 60 * arguments.minutes - (time.perf_counter() - START)
        if left < (0 if bench.is_tiny else needed):
            report["left_out"].append(name)
            print(f"left out: {name} ({left:.0f} s left)", flush=True)
            continue
        if predicted.exists():
            bench.shared["predictions"] = json.loads(predicted.read_text(encoding="utf-8") or "{}")
        for result in run_step(bench, module, name):
            report["results"].append(result)
            print(text_of(result), flush=True)
            arguments.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"\n{table(report['results'])}\n\nleft out: {', '.join(report['left_out']) or 'nothing'}")
    print(f"results: {arguments.out}")
    arguments.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return int(any("failed" in result for result in report["results"]))


if __name__ == "__main__":
    sys.exit(main())
