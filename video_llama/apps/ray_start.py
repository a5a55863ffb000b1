"""Connect to Ray, or start it on this machine (extra ``scale``)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from video_llama.errors import MissingExtraError, WorkerError


@dataclass(frozen=True, kw_only=True)
class RayResources:
    """What each worker or replica gets, and the cluster."""

    num_cpus: float = 1.0
    """CPU cores."""
    num_gpus: float = 0.0
    """GPUs; 0.5 places two on one GPU."""
    address: str | None = None
    """Address of a cluster. None: that of RAY_ADDRESS, or Ray is started on this machine."""

    def check_pool(self, name: str, least: int, most: int | None) -> None:
        """Raise ValueError if fewer than ``least`` workers or replicas are allowed, or a resource is negative."""
        if most is not None and most < least:
            raise ValueError(f"max_{name} is {most}, less than {name} ({least}). Raise it.")
        if self.num_cpus < 0 or self.num_gpus < 0:
            raise ValueError("num_cpus and num_gpus must not be negative. Give 0 or more.")


def start_ray(address: str | None, num_cpus: int, object_store_bytes: int | None) -> bool:
    """Connect to a cluster, or start Ray on this machine with at least ``num_cpus``. Return whether this was done.

    False: this process is connected already. Without ``address``, the environment variable RAY_ADDRESS is used. The
    usage reports of a Ray that is started here are disabled. Raises MissingExtraError without Ray, WorkerError if the
    cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "scale") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            num_cpus = max(num_cpus, os.cpu_count() or 1)
            ray.init(num_cpus=num_cpus, object_store_memory=object_store_bytes, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorkerError(f"Ray does not start ({error}). Check the address of the cluster.") from error
    return True
