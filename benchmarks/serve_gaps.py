"""The longest time between two tokens of running answers while another request is prepared.

    OMP_NUM_THREADS=1 python benchmarks/serve_gaps.py [--folder FOLDER] [--streams 2] [--runs 3]

Two answers run in the server's model thread. Then a video is encoded and a prompt of about 1,500 tokens is processed,
first all at once (``max_pause=inf``), then in steps (the default). The usual gap is the median before that. A token
takes longer as the answers grow, so the answers are also generated without the request: ``of same length`` is the
longest gap relative to the usual one at the same position. Gaps are the processor time of the model thread, which does
not depend on other processes of the machine; with one thread and no other process this is the elapsed time. The model
is the mid-sized one with random numbers (``mid_size_model.py``), stored in bfloat16; FOLDER keeps it for the next
run. ``bench_serve.py --gaps`` runs the same.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import video_llama
from benchmarks.machine import machine
from benchmarks.mid_size_model import write_random_folder
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.scheduler import AnswerEvent, DecodeJob, Scheduler
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat import Assistant, Decoding, MediaOptions

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "two_shapes.mp4"
PROMPT_TOKENS, USUAL_TOKENS, MAX_TOKENS = 1500, 24, 1500
NEIGHBOURS = 8
SENTENCE = "Where does the red square move, and what do you hear? "


@dataclass
class Stream:
    """The times at which the model thread emitted an answer's pieces: processor seconds of the thread."""

    times: list[float] = field(default_factory=list)
    changed: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def emit(self, event: AnswerEvent) -> None:
        """Record an event. Called in the model thread."""
        if isinstance(event, Exception):
            self.error = event
        self.times.append(time.thread_time())
        self.changed.set()

    def wait(self, count: int) -> None:
        """Wait for this many events."""
        while len(self.times) < count and self.error is None:
            self.changed.wait()
            self.changed.clear()
        if self.error is not None:
            raise self.error

    def gaps(self, start: int) -> list[float]:
        """Return the gaps between the events from number ``start`` on."""
        return [later - earlier for earlier, later in zip(self.times[start:], self.times[start + 1 :], strict=False)]


def long_question(assistant: Assistant) -> str:
    """Return a question with about ``PROMPT_TOKENS`` tokens."""
    length = len(assistant.engine.tokenizer.encode(SENTENCE))
    return SENTENCE * (PROMPT_TOKENS // length)


def job_of(assistant: Assistant, question: str, stream: Stream, num_tokens: int, *media: object) -> DecodeJob:
    """Return a job for the scheduler."""
    turn = assistant.prepare(list(media), question, MediaOptions(), Decoding(max_new_tokens=num_tokens))  # type: ignore[arg-type]
    return DecodeJob(turn, tuple(str(id(medium)) for medium in media), (), stream.emit)


@dataclass(frozen=True)
class Gaps:
    """Processor seconds: the usual and the longest gap, and from the request to its first token."""

    usual: float
    longest: float
    of_same_length: float
    """The longest gap relative to that of the same answer at the same position without the request."""
    first_token: float


def measure(assistant: Assistant, max_pause: float, num_streams: int) -> Gaps:
    """Run the answers and the request once."""
    engine, settings = assistant.engine, ServerSettings()
    scheduler = Scheduler(
        engine,
        Metrics(),
        max_rows=settings.max_rows,
        prefix_tokens=settings.prefix_cache_tokens,
        prefill_chunk_tokens=PROMPT_TOKENS * 2 if max_pause == math.inf else settings.prefill_chunk_tokens,
        max_pause=max_pause,
        min_pause=settings.min_pause,
    )
    read = engine.read(EXAMPLE, MediaOptions())
    streams, question = [Stream() for _ in range(num_streams)], long_question(assistant)
    scheduler.start()
    try:
        for stream in streams:
            scheduler.submit(job_of(assistant, "What do you see?", stream, MAX_TOKENS))
        for stream in streams:
            stream.wait(USUAL_TOKENS)
        counts, clock = [len(stream.times) for stream in streams], streams[0].times[-1]
        usual = median(gap for stream in streams for gap in stream.gaps(num_streams + 2))
        medium = scheduler.call_steps(lambda: engine.encode_steps(read)).result()
        other = Stream()
        scheduler.submit(job_of(assistant, question, other, 2, medium))
        other.wait(1)
        for stream, count in zip(streams, counts, strict=True):
            stream.wait(min(len(stream.times) + 2, MAX_TOKENS))
            assert len(stream.times) > count, "an answer ended before the request began"
    finally:
        scheduler.stop()
    longest = max(gap for stream, count in zip(streams, counts, strict=True) for gap in stream.gaps(count - 1))
    alone = undisturbed(assistant, num_streams, max(len(stream.times) for stream in streams))
    of_same_length = max(
        gap / median(alone[position - NEIGHBOURS : position + NEIGHBOURS])
        for stream, count in zip(streams, counts, strict=True)
        for position, gap in enumerate(stream.gaps(count - 1), start=count - 1)
    )
    return Gaps(usual, longest, of_same_length, other.times[0] - clock)


def undisturbed(assistant: Assistant, num_streams: int, num_tokens: int) -> list[float]:
    """Return the gaps of an answer that runs with the others, without a request."""
    scheduler = Scheduler(
        assistant.engine, Metrics(), max_rows=num_streams, prefix_tokens=ServerSettings().prefix_cache_tokens
    )
    streams = [Stream() for _ in range(num_streams)]
    scheduler.start()
    try:
        for stream in streams:
            scheduler.submit(job_of(assistant, "What do you see?", stream, MAX_TOKENS + NEIGHBOURS + 1))
        streams[0].wait(num_tokens + NEIGHBOURS + 1)
    finally:
        scheduler.stop()
    return streams[0].gaps(0)


def show_gaps(assistant: Assistant, num_streams: int, runs: int) -> None:
    """Print one row per setting; the run with the median ratio."""
    tokens = len(assistant.engine.tokenizer.encode(long_question(assistant)))
    print(f"{num_streams} running answers; a video and a question of {tokens} tokens are added; processor seconds")
    print("max_pause  usual gap  longest gap  ratio  of same length  first token of the request")
    for max_pause in (math.inf, ServerSettings().max_pause):
        found = sorted(
            (measure(assistant, max_pause, num_streams) for _ in range(runs)),
            key=lambda gaps: gaps.longest / gaps.usual,
        )
        gaps, ratios = (
            found[len(found) // 2],
            [f"{each.longest / each.usual:.1f}, {each.of_same_length:.1f}" for each in found],
        )
        print(
            f"{max_pause:9g} {gaps.usual:10.3f} {gaps.longest:12.3f} {gaps.longest / gaps.usual:6.1f} "
            f"{gaps.of_same_length:15.1f} {gaps.first_token:10.1f}   (ratios of all runs: {'; '.join(ratios)})",
            flush=True,
        )


def run(folder: Path | None, num_streams: int, runs: int) -> None:
    """Load the model, or write and load it, and print the gaps."""
    with tempfile.TemporaryDirectory() as scratch:
        path = folder or Path(scratch) / "model"
        if not path.exists():
            write_random_folder(path, torch.bfloat16)
        show_gaps(video_llama.load(path, device="cpu"), num_streams, runs)


def main() -> None:
    """Print the machine and the gaps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder of the model; written if it does not exist")
    parser.add_argument("--streams", type=int, default=2, help="number of running answers")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    run(options.folder, options.streams, options.runs)


if __name__ == "__main__":
    main()
