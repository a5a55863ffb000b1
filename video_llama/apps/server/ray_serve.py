"""The HTTP server as replicas of Ray Serve (extra ``scale``): each is a process with a model and the same application.

Ray Serve's proxy receives the requests, passes each to a replica, adds and removes replicas with the load, and starts
replicas again that died.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from video_llama.apps.host_names import is_loopback
from video_llama.apps.ray_start import RayResources, start_ray
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.assistant import Assistant
from video_llama.errors import WorkerError

APPLICATION = "video-llama"
GRACE_SECONDS = 5.0
"""Time of the proxy beyond the time limit of a request, so that the replica's own error is sent."""
HEALTH_SECONDS = 5.0
"""Interval in which Ray Serve checks its replicas."""


@dataclass(frozen=True)
class ReplicaOptions(RayResources):
    """How many replicas, and their resources."""

    replicas: int = 1
    """Number of replicas, at least."""
    max_replicas: int | None = None
    """Number to which Ray Serve may add replicas under load. None: it adds none."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}. Give 1 or more.")
        self.check_pool("replicas", self.replicas, self.max_replicas)


class RayServer:
    """The replicas and the proxy. ``run`` blocks until SIGTERM or SIGINT.

    ``load`` loads the model of a replica; it must be picklable. Raises MissingExtraError without Ray.
    """

    def __init__(
        self, load: Callable[[], Assistant], settings: ServerSettings, options: ReplicaOptions, host: str, port: int
    ) -> None:
        # One core for the proxy and the controller of Ray Serve.
        num_cpus = math.ceil(1 + (options.max_replicas or options.replicas) * options.num_cpus)
        self._is_ours = start_ray(options.address, num_cpus, None)
        self._deployment = _deployment(load, settings, options, is_local=is_loopback(host))
        self._http = {"host": host, "port": port, "request_timeout_s": settings.request_seconds + GRACE_SECONDS}
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the replicas and wait until they are ready. Raises WorkerError if they do not start."""
        from ray import serve

        serve.start(http_options=self._http, logging_config={"log_level": "ERROR", "enable_access_log": False})
        try:
            serve.run(self._deployment, name=APPLICATION, route_prefix="/", logging_config={"log_level": "ERROR"})
        except RuntimeError as error:
            status = serve.status().applications.get(APPLICATION)
            message = error if status is None else status.message or error
            raise WorkerError(f"The replicas do not start: {_last_line(str(message))}") from error

    def run(self) -> None:
        """Wait for SIGTERM or SIGINT, and stop the replicas. Running answers have ``shutdown_seconds`` to finish."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._ended.wait()
        self.stop()

    def stop(self) -> None:
        """Stop the replicas, and Ray if it was started here."""
        import ray
        from ray import serve

        serve.shutdown()
        if self._is_ours:
            ray.shutdown()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()


def _deployment(
    load: Callable[[], Assistant], settings: ServerSettings, options: ReplicaOptions, *, is_local: bool
) -> Any:
    """Return the application of Ray Serve."""
    from ray import serve

    def build() -> Any:
        from video_llama.apps.server.app import build_app

        return build_app(load(), settings, is_local=is_local)

    return serve.deployment(
        serve.ingress(build)(),
        name=APPLICATION,
        max_ongoing_requests=settings.max_rows + settings.max_queue,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        **_scaling(options, settings),
    ).bind()


def _scaling(options: ReplicaOptions, settings: ServerSettings) -> dict[str, Any]:
    """Return the arguments for the number of replicas: more are added when the batches of the present ones are full."""
    if options.max_replicas is None:
        return {"num_replicas": options.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": options.replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": settings.max_rows,
        }
    }


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
