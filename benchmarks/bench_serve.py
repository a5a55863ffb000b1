"""The HTTP server under load: throughput, latency, fairness, errors and memory with 1, 8 and 32 clients.

    python benchmarks/bench_serve.py [--model miniature] [--requests 64] [--clients 1 8 32] [--soak MINUTES]

Starts ``video-llama serve`` in a separate process and sends requests with the official client. Of ten requests, four
are about one of the example videos (shared by many clients), one about a new video, two about an image, one about a
sound file, and two are text only. Each client sends its next request as soon as the last one is answered.
"fair" is Jain's index of the numbers of tokens that the clients received: 1 if all are equal, 1 / clients if one got
all. ``--gaps`` measures the time between two tokens of running answers while another request is prepared
(``serve_gaps.py``) and nothing else. ``--soak`` then continues with 8 clients and prints the memory of the server and
its media processes every 30 seconds.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import openai
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import serve_gaps
from benchmarks.machine import machine

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MIX = ("video", "image", "video", "words", "new video", "video", "sound", "image", "video", "words")
QUESTIONS = ("What happens in the video?", "What do you hear?", "What color is it?")
MAX_TOKENS = 64
SOAK_CLIENTS, SOAK_PRINT_SECONDS = 8, 30
START_SECONDS = 120


def url(data: bytes, mime: str) -> str:
    """Return a data: URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


class Mix:
    """Creates the messages of the n-th request, the same in every run."""

    def __init__(self) -> None:
        self._videos = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.mp4"))]
        self._image, self._sound = _image(), _sound()

    def messages(self, number: int) -> list[dict[str, Any]]:
        """Return the user message for a position of the mix."""
        kind, question = MIX[number % len(MIX)], QUESTIONS[number % len(QUESTIONS)]
        video = self._videos[number % len(self._videos)]
        # A free box at the end of an mp4 changes its hash, but not its frames: the server cannot use its cache.
        fresh = video + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
        parts = {
            "video": ("video_url", url(video, "video/mp4")),
            "new video": ("video_url", url(fresh, "video/mp4")),
            "image": ("image_url", url(self._image, "image/png")),
            "sound": ("audio_url", url(self._sound, "audio/wav")),
        }
        text = {"type": "text", "text": question}
        if kind == "words":
            return [{"role": "user", "content": [text]}]
        name, link = parts[kind]
        return [{"role": "user", "content": [{"type": name, name: {"url": link}}, text]}]


def _image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def _sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(random.Random(0).randbytes(2 * 16000 * 3))
    return buffer.getvalue()


@contextmanager
def server(model: str) -> Iterator[tuple[int, str]]:
    """Start a server; yield its process id and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "video_llama", "serve", "--model", model, "--port", str(port)]
    process = subprocess.Popen([*command, "--set", "max_queue=256"], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", process)
        yield process.pid, address
    finally:
        process.terminate()
        process.wait()


def _wait_for(health: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(health, timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit("The server did not start. Run `video-llama serve` with the same model to see why.")


class Load:
    """Sends requests from several clients and collects the results."""

    def __init__(self, address: str, model_name: str, mix: Mix) -> None:
        self._client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)
        self._model, self._mix = model_name, mix
        self._lock, self._next = threading.Lock(), 0

    def run(self, num_clients: int, num_requests: int | None, seconds: float = float("inf")) -> dict[str, Any]:
        """Send requests until a number of requests or seconds is reached."""
        times: list[float] = []
        tokens = [0] * num_clients
        errors: list[str] = []
        start, first = time.monotonic(), self._next

        def client(index: int) -> None:
            while True:
                with self._lock:
                    number = self._next
                    if num_requests is not None and number - first >= num_requests:
                        return
                    self._next += 1
                if time.monotonic() - start > seconds:
                    return
                tokens[index] += self._ask(number, times, errors)

        threads = [threading.Thread(target=client, args=(index,)) for index in range(num_clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"times": times, "tokens": tokens, "errors": errors, "seconds": time.monotonic() - start}

    def _ask(self, number: int, times: list[float], errors: list[str]) -> int:
        """Send one request. Returns the number of tokens of the answer."""
        start = time.monotonic()
        try:
            messages: Any = self._mix.messages(number)
            reply = self._client.chat.completions.create(model=self._model, messages=messages, max_tokens=MAX_TOKENS)
        except openai.OpenAIError as error:
            errors.append(f"{type(error).__name__}: {error}")
            return 0
        times.append(time.monotonic() - start)
        return reply.usage.completion_tokens if reply.usage else 0


def show(num_clients: int, result: dict[str, Any], baseline: float) -> float:
    """Print one row of the table, and the first error if any. Returns the requests per second.

    The ratio is that of the requests per second to ``baseline``, those of the table's first row.
    """
    times, seconds = result["times"], result["seconds"]
    cuts = quantiles(times, n=20) if len(times) > 1 else [float("nan")] * 19
    rate, tokens = len(times) / seconds, sum(result["tokens"]) / seconds
    print(
        f"{num_clients:7d} {len(times):9d} {rate:10.2f} {rate / (baseline or rate):6.2f} {tokens:9.1f} "
        f"{cuts[9]:8.2f} {cuts[18]:8.2f} {max(times, default=0.0):8.2f} {fairness(result['tokens']):5.2f} "
        f"{len(result['errors']):7d}"
    )
    for error in result["errors"][:1]:
        print(f"        {error}")
    return rate


def fairness(shares: list[int]) -> float:
    """Return Jain's index of what the clients received (Jain et al. 1984)."""
    squares = sum(share**2 for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else float("nan")


def megabytes(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process and of its children, in MB (10^6 bytes)."""
    process = psutil.Process(pid)
    return process.memory_info().rss / 1e6, sum(child.memory_info().rss for child in process.children()) / 1e6


def soak(load: Load, pid: int, minutes: float, baseline: float) -> None:
    """Print the memory while 8 clients send requests, and the results."""
    end = time.monotonic() + 60 * minutes
    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(load.run(SOAK_CLIENTS, None, 60 * minutes)))
    thread.start()
    print("minutes  server MB  media processes MB")
    start = time.monotonic()
    while thread.is_alive():
        own, children = megabytes(pid)
        print(f"{(time.monotonic() - start) / 60:7.1f} {own:10.0f} {children:19.0f}", flush=True)
        thread.join(min(SOAK_PRINT_SECONDS, max(1.0, end - time.monotonic())))
    show(SOAK_CLIENTS, results[0], baseline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature", help="miniature or a model folder")
    parser.add_argument("--requests", type=int, default=64, help="number of requests, at least 4 per client")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--gaps", action="store_true", help="measure the gaps between two tokens, and nothing else")
    options = parser.parse_args()
    if options.gaps:
        print(machine())
        serve_gaps.run(None, num_streams=2, runs=3)
        return
    print(f"{machine()}, {options.model}, at most {MAX_TOKENS} tokens an answer")
    with server(options.model) as (pid, address):
        with urllib.request.urlopen(f"{address}/v1/models") as reply:
            name = json.load(reply)["data"][0]["id"]
        load = Load(address, name, Mix())
        load.run(1, len(MIX))  # warm up before timing
        print(f"ratio: requests/s relative to {options.clients[0]} clients")
        print("clients  requests  requests/s  ratio  tokens/s    p50 s    p95 s    max s  fair  errors")
        baseline = 0.0
        for num_clients in options.clients:
            rate = show(num_clients, load.run(num_clients, max(options.requests, 4 * num_clients)), baseline)
            baseline = baseline or rate
        if options.soak:
            soak(load, pid, options.soak, baseline)


if __name__ == "__main__":
    main()
