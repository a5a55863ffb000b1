"""Prometheus metrics of the server, served at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKET_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper bounds of the histogram buckets, in seconds."""


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "video_llama_requests", "Requests by path and HTTP status.", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "video_llama_request_seconds",
            "Duration of chat requests in seconds.",
            buckets=BUCKET_SECONDS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "video_llama_first_token_seconds",
            "Seconds from submitting an answer to the scheduler until its first token.",
            buckets=BUCKET_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "video_llama_tokens",
            "Tokens by kind: prompt, reused (part of prompt), generated.",
            ["kind"],
            registry=registry,
        )
        self.running = Gauge("video_llama_running_answers", "Answers being generated.", registry=registry)
        self.waiting = Gauge("video_llama_waiting_answers", "Answers waiting in the queue.", registry=registry)
        self.media = Counter(
            "video_llama_media",
            "Media by source: encoded, shared (with a concurrent request), kept (in the cache).",
            ["found"],
            registry=registry,
        )
        self.cache_limit_bytes = Gauge(
            "video_llama_cache_limit_bytes", "Maximum size of all caches together (cache_bytes).", registry=registry
        )
        self.cache_bytes = Gauge(
            "video_llama_cache_bytes",
            "Size of the caches: answers (keys and values of running answers), prompts (of kept prompts), media.",
            ["kind"],
            registry=registry,
        )
        self.worker_deaths = Counter(
            "video_llama_media_worker_deaths", "Media processes that crashed or were killed.", registry=registry
        )

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
