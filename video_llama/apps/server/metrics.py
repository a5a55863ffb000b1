"""What Prometheus may read at ``/metrics``: requests, tokens, waiting and running answers, media, decoder processes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Bounds of the histograms' buckets."""


class Metrics:
    """The counters of one server; each server has its own registry."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "video_llama_requests", "Requests, by path and status.", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "video_llama_request_seconds", "From a chat request to its end.", buckets=SECONDS, registry=registry
        )
        self.first_token_seconds = Histogram(
            "video_llama_first_token_seconds",
            "From handing an answer to the model until its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "video_llama_tokens", "Tokens: prompt, of those reused, generated.", ["kind"], registry=registry
        )
        self.running = Gauge("video_llama_running_answers", "Answers that are being decoded.", registry=registry)
        self.waiting = Gauge("video_llama_waiting_answers", "Answers that wait for a place.", registry=registry)
        self.media = Counter("video_llama_media", "Media, by where they came from.", ["found"], registry=registry)
        self.worker_deaths = Counter(
            "video_llama_media_worker_deaths", "Decoder processes that died or were killed.", registry=registry
        )

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
