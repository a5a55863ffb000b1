"""Work of the model thread between two tokens: a medium that is encoded, a prompt that is processed, or a call.

Each piece of work is a generator that pauses after each step. Running answers therefore wait for a few steps, not for
a whole medium or prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from video_llama.models.encoding_steps import Steps

Result = TypeVar("Result")


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what was started, so that a step's time is known."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the clock by which steps are timed: on a CPU, that of the thread, which other processes do not disturb."""
    return time.thread_time if device.type == "cpu" else time.perf_counter


class Work:
    """Steps, and what is done with their result or error. ``is_cancelled`` is asked before each step."""

    def __init__(
        self,
        steps: Steps[Any],
        on_result: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._steps, self._on_result, self._on_error = steps, on_result, on_error
        self._is_cancelled = is_cancelled
        self.last_seconds = 0.0
        """Duration of the last step, set by the scheduler."""

    def step(self) -> bool:
        """Do one step. Returns whether the work has ended, failed, or was cancelled."""
        if self._is_cancelled():
            self._steps.close()
            return True
        try:
            next(self._steps)
        except StopIteration as end:
            self._on_result(end.value)
            return True
        except Exception as error:
            self._on_error(error)
            return True
        return False

    def fail(self, error: Exception) -> None:
        """Stop the work with an error."""
        self._steps.close()
        self._on_error(error)


class QueuedCall:
    """Steps that another thread waits for. They are created when the call begins."""

    def __init__(self, create: Callable[[], Steps[Any]]) -> None:
        self.future: Future[Any] = Future()
        self._create = create

    def work(self) -> Work:
        """Begin the call. It is cancelled with its future."""
        return Work(self._create(), self._finish, self.fail, self.future.cancelled)

    def fail(self, error: Exception) -> None:
        """End the call with an error."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _finish(self, result: Any) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)
