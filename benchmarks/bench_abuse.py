"""The HTTP server under hostile requests: latency of /health, memory and log size during and after each wave.

    python benchmarks/bench_abuse.py [--model miniature] [--waves keys parts percent slow references visitors]

Each wave starts a new ``video-llama serve`` in a separate process. ``keys``: one body of 1,000,000 unknown keys;
``parts``: 1024 messages of 1024 empty parts; ``percent``: a ``data:,%00...`` URL of 30 MB; ``slow``: 200 half-sent
requests to a server with at most 160 file descriptors. Meanwhile /health is requested ten times per second.

The other waves use the handlers of the demo, each in a process of its own. ``references``: one message with 100
references to one video; ``visitors``: 30 visitors who attach a video and never open the page.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine

START_SECONDS, AFTER_SECONDS = 180, 5
HEALTH_TIMEOUT, HEALTH_INTERVAL = 60, 0.1
DEMO_WAVES = ("references", "visitors")
NUM_FILES, NUM_SLOW, SLOW_SECONDS = 160, 200, 20


def body_of(wave: str, model: str) -> bytes:
    """Return the request body of a wave."""
    user = {"role": "user", "content": "What do you see?"}
    if wave == "keys":
        return json.dumps({"model": model, "messages": [user], **{f"k{n}": 0 for n in range(10**6)}}).encode()
    if wave == "parts":
        return json.dumps({"model": model, "messages": [{"role": "user", "content": [{}] * 1024}] * 1024}).encode()
    part = {"type": "image_url", "image_url": {"url": "data:," + "%00" * 10**7}}
    return json.dumps(
        {"model": model, "messages": [{**user, "content": [part, {"type": "text", "text": "What do you see?"}]}]}
    ).encode()


class Watch:
    """Requests /health and reads the memory of the server until ``stop``."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._process = url, psutil.Process(pid)
        self.before = self.peak = self.rss()
        self.slowest, self.num_failed, self.num_asked = 0.0, 0, 0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._ask, self._measure)]
        for thread in self._threads:
            thread.start()

    def rss(self) -> float:
        """Return the resident memory of the server process, in MB (10^6 bytes)."""
        return float(self._process.memory_info().rss / 1e6)

    def _ask(self) -> None:
        while not self._is_over.is_set():
            start = time.monotonic()
            try:
                urllib.request.urlopen(f"{self._url}/health", timeout=HEALTH_TIMEOUT).read()
            except OSError:
                self.num_failed += 1
            self.num_asked += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            self._is_over.wait(HEALTH_INTERVAL)

    def _measure(self) -> None:
        while not self._is_over.wait(0.02):
            self.peak = max(self.peak, self.rss())

    def stop(self) -> None:
        """Stop after the current request."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def send(url: str, body: bytes) -> str:
    """Send a chat request; return the status and the message of the error."""
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            return f"{reply.status}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.load(error)['error']['message'][:80]}"


def hold_half_sent(port: int) -> str:
    """Open connections that send half a request, and keep them open."""
    held = []
    for number in range(NUM_SLOW):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        full = head + 'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"model": "'
        connection.sendall((full if number % 2 else head).encode())
        held.append(connection)
    time.sleep(SLOW_SECONDS)
    for connection in held:
        connection.close()
    return f"{len(held)} half-sent requests"


def run_wave(wave: str, model: str, log: Path) -> dict[str, Any]:
    """Start a server, send one wave, and return the figures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "video_llama", "serve", "--model", model, "--port", str(port)]
    limit = f"ulimit -n {NUM_FILES}; " if wave == "slow" else ""
    with log.open("wb") as output:
        process = subprocess.Popen(["bash", "-c", f'{limit}exec "$@"', "-", *command], stderr=output)
        try:
            name = _model_of(url, process)
            watch, start = Watch(url, process.pid), time.monotonic()
            reply = hold_half_sent(port) if wave == "slow" else send(url, body_of(wave, name))
            seconds = time.monotonic() - start
            time.sleep(AFTER_SECONDS)
            watch.stop()
            after = watch.rss()
        finally:
            process.kill()
            process.wait()
    return {
        "wave": wave,
        "seconds": round(seconds, 1),
        "slowest /health s": round(watch.slowest, 2),
        "/health failed": f"{watch.num_failed} of {watch.num_asked}",
        "MB before, peak, after": [round(megabytes) for megabytes in (watch.before, watch.peak, after)],
        "log bytes": log.stat().st_size,
        "reply": reply,
    }


def run_demo_wave(wave: str, model: str) -> dict[str, Any]:
    """Call the handlers of the demo, and return the figures."""
    from contextlib import closing
    from types import SimpleNamespace

    import video_llama
    from video_llama.apps.demo.handlers import GREEDY, Handlers
    from video_llama.apps.demo.serving import LIMITS
    from video_llama.apps.demo.visitors import Visitors
    from video_llama.apps.media.reader import MediaReader

    video = str(Path(__file__).resolve().parent.parent / "examples" / "two_shapes.mp4")
    assistant = video_llama.load(model, device="cpu")
    controls = (GREEDY, 1.0, 0.9, 50.0, 1.0, 4, "")
    with closing(MediaReader(assistant.engine, LIMITS)) as reader:
        handlers = Handlers(Visitors(assistant, reader, with_audio=True))

        def ask(visitor: str, num_files: int) -> None:
            for _ in handlers.ask(
                SimpleNamespace(session_hash=visitor), {"text": "What?", "files": [video] * num_files}, *controls
            ):
                pass

        ask("warm-up", 1)
        process = psutil.Process()
        before, start = process.memory_info().rss, time.monotonic()
        if wave == "references":
            ask("visitor", 100)
        else:
            for number in range(30):
                ask(f"visitor {number}", 1)
        seconds, after = time.monotonic() - start, process.memory_info().rss
    return {"wave": wave, "seconds": round(seconds, 1), "MB more after it": round((after - before) / 1e6)}


def _model_of(url: str, process: subprocess.Popen[bytes]) -> str:
    """Wait for the server and return the name of its model."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as reply:
                return str(json.load(reply)["data"][0]["id"])
        except OSError:
            time.sleep(0.2)
    sys.exit("The server did not start. Run `video-llama serve` with the same model to see why.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    waves = ("keys", "parts", "percent", "slow", *DEMO_WAVES)
    parser.add_argument("--model", default="miniature", help="miniature or a model folder")
    parser.add_argument("--waves", nargs="+", choices=waves, default=waves)
    options = parser.parse_args()
    print(f"{machine()}, {options.model}")
    with tempfile.TemporaryDirectory() as folder:
        for wave in options.waves:
            if wave in DEMO_WAVES:
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    print(json.dumps(process.submit(run_demo_wave, wave, options.model).result()), flush=True)
                continue
            print(json.dumps(run_wave(wave, options.model, Path(folder) / f"{wave}.log")), flush=True)


if __name__ == "__main__":
    main()
