"""Time and memory of an answer: from the shell, in a conversation, in a batch.

    python benchmarks/bench_ask.py [--model miniature] [--runs 5]

Prints ratios: `video-llama ask` to a process that only imports the same libraries; a second question to the first
(media and the common prompt are cached); a batch to single questions. Every time is the minimum over the runs.

    OMP_NUM_THREADS=1 python benchmarks/bench_ask.py --model FOLDER --only-questions [--tokens 32]

measures eight questions about one clip, and the first tokens of two questions, in processor seconds. ``serve_gaps.py
--folder FOLDER`` writes a mid-sized model with random weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import video_llama
from benchmarks.machine import machine
from benchmarks.measuring import least_seconds
from video_llama.chat.media_prefixes import MediaPrefixes

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "two_shapes.mp4"
QUESTIONS = ("What happens in the video?", "What do you hear?")
BATCH = 16
FLOOR = "import av, torch, sentencepiece; from transformers import LlamaModel, Blip2VisionModel, Blip2QFormerModel"


def show(name: str, ours: float, baseline: float, unit: str) -> None:
    """Print the ratio and both figures in one line."""
    print(f"{name:40} {ours / baseline:6.2f}   ({ours:.3g} {unit} / {baseline:.3g} {unit})")


def process(arguments: Sequence[str]) -> None:
    """Run a command with this Python."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def peak_megabytes(arguments: Sequence[str]) -> float:
    """Return the peak memory of one run of a command, in MB (10^6 bytes), measured in a separate process."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", code, sys.executable, *arguments], check=True, capture_output=True)
    return int(run.stdout) * 1024 / 1e6


def from_the_shell(model: str, runs: int) -> None:
    """Measure a whole `ask`, including imports and loading."""
    ask = ["-m", "video_llama", "ask", str(EXAMPLE), QUESTIONS[0], "--model", model]
    floor = ["-c", FLOOR]
    floor_seconds, ask_seconds = least_seconds(runs, lambda: process(floor)), least_seconds(runs, lambda: process(ask))
    show("ask / imports alone, wall", ask_seconds, floor_seconds, "s")
    show("ask / imports alone, memory", peak_megabytes(ask), peak_megabytes(floor), "MB")


def in_a_conversation(model: str, runs: int) -> None:
    """Measure the first and the second question of a chat, and the second question in a new chat."""
    assistant = video_llama.load(model)
    assistant.chat(EXAMPLE).ask(QUESTIONS[0])

    def second_seconds() -> float:
        chat = assistant.chat(EXAMPLE)
        chat.ask(QUESTIONS[0])
        start = time.perf_counter()
        chat.ask(QUESTIONS[1])
        return time.perf_counter() - start

    fresh = least_seconds(runs, lambda: assistant.chat(EXAMPLE).ask(QUESTIONS[1]))
    second = min(second_seconds() for _ in range(runs))
    show("second question / fresh chat", second, fresh, "s")
    medium = assistant.encode(EXAMPLE)
    requests = [(medium, QUESTIONS[number % 2]) for number in range(BATCH)]
    single = least_seconds(runs, lambda: [assistant.chat(medium).ask(question) for medium, question in requests])
    batch = least_seconds(runs, lambda: assistant.ask_batch(requests, batch_size=BATCH))
    show(f"batch of {BATCH} / one by one", batch, single, "s")


EIGHT = (
    "What happens in the video?",
    "What do you hear?",
    "Which shape moves first?",
    "What colour is the circle?",
    "Where does the square go?",
    "How many shapes are there?",
    "Does the sound fit the picture?",
    "Describe the background.",
)


def least_processor_seconds(runs: int, work: Callable[[], object]) -> float:
    """Return the least processor time of ``runs`` calls, in seconds."""

    def seconds() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(seconds() for _ in range(runs))


def about_one_clip(model: str, runs: int, tokens: int) -> None:
    """Measure eight questions about one clip, and the first tokens of a conversation's questions."""
    assistant = video_llama.load(model)
    medium = assistant.encode(EXAMPLE)

    def separately(media: Any) -> None:
        for question in EIGHT:
            assistant.engine.prefixes = MediaPrefixes()
            assistant.chat(media).ask(question, max_new_tokens=tokens)

    def chats() -> None:
        assistant.engine.prefixes = MediaPrefixes()
        for question in EIGHT:
            assistant.chat(medium).ask(question, max_new_tokens=tokens)

    def batch(media: Any) -> None:
        assistant.engine.prefixes = MediaPrefixes()
        assistant.ask_batch([(media, question) for question in EIGHT], max_new_tokens=tokens)

    def first_tokens(media: Any) -> tuple[float, float]:
        assistant.engine.prefixes = MediaPrefixes()
        times = []
        start = time.process_time()
        chat = assistant.chat(media)
        for question in EIGHT[:2]:
            stream = chat.stream(question, max_new_tokens=8)
            next(stream)
            times.append(time.process_time() - start)
            for _ in stream:
                pass
            start = time.process_time()
        return times[0], times[1]

    for name, media in (("file", EXAMPLE), ("encoded", medium)):
        alone = least_processor_seconds(runs, lambda media=media: separately(media))  # type: ignore[misc]
        together = least_processor_seconds(runs, lambda media=media: batch(media))  # type: ignore[misc]
        show(f"8 questions: one by one / batch, {name}", alone, together, "s")
        if media is medium:
            show("8 questions: one by one / chats", alone, least_processor_seconds(runs, chats), "s")
        pairs = [first_tokens(media) for _ in range(runs)]
        first, second = (min(column) for column in zip(*pairs, strict=True))
        show(f"first token, second / first, {name}", second, first, "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature", help="miniature or a model folder")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only-questions", action="store_true", help="eight questions about one clip, first tokens")
    parser.add_argument("--tokens", type=int, default=32, help="length of the answers of --only-questions")
    options = parser.parse_args()
    print(f"{machine()}; least of {options.runs} runs")
    if options.only_questions:
        about_one_clip(options.model, options.runs, options.tokens)
        return
    from_the_shell(options.model, options.runs)
    in_a_conversation(options.model, options.runs)


if __name__ == "__main__":
    main()
