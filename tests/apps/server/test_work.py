"""The model thread does its work in steps: running answers go on, and their tokens do not change."""

import itertools
import math
import threading
from contextlib import contextmanager

import pytest

from tests.apps.server.conftest import PATIENCE, single_step, until
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.scheduler import DecodeJob, FinishedAnswer, Scheduler, SchedulerStoppedError
from video_llama.chat.decoding import Decoding
from video_llama.models import encoding_steps
from video_llama.processors.medium import MediaOptions

QUESTION = "What do you see?"
LONG_QUESTION = " ".join(["Where does the square move?"] * 12)
NUM_TOKENS = 24


class Request:
    """A job and what it has emitted."""

    def __init__(self, assistant, question, media=None, num_tokens=NUM_TOKENS, **settings):
        decoding = Decoding(max_new_tokens=num_tokens, **settings)
        turn = assistant.prepare(media, question, MediaOptions(), decoding)
        self.events, self.ended = [], threading.Event()
        self.job = DecodeJob(turn, tuple(str(id(each)) for each in turn.media), (), self._emit)

    def _emit(self, event):
        self.events.append(event)
        if not isinstance(event, str):
            self.ended.set()

    def result(self):
        assert self.ended.wait(PATIENCE)
        if isinstance(self.events[-1], Exception):
            raise self.events[-1]
        return self.events[-1]


@contextmanager
def scheduler(assistant, **options):
    found = Scheduler(assistant.engine, Metrics(), **{"max_rows": 8, "prefix_tokens": 0, **options})
    found.start()
    try:
        yield found
    finally:
        found.stop()


def num_generated(running):
    """Return the number of tokens generated so far, by all answers."""
    value = running._metrics._registry.get_sample_value("video_llama_tokens_total", {"kind": "generated"})
    return int(value or 0)


def requests(assistant, clips):
    media = [None, *(assistant.encode(clips[name]) for name in ("video", "sound"))]
    return [Request(assistant, text, medium) for medium in media for text in (QUESTION, LONG_QUESTION)]


@pytest.mark.parametrize(
    ("chunk_tokens", "max_pause", "prefix_tokens"), [(1, 0.0, 0), (7, 1.5, 0), (64, 0.5, 4000), (512, math.inf, 0)]
)
def test_tokens_are_those_of_a_chat(assistant, clips, chunk_tokens, max_pause, prefix_tokens):
    options = dict(prefill_chunk_tokens=chunk_tokens, max_pause=max_pause, prefix_tokens=prefix_tokens)
    given = requests(assistant, clips)
    with scheduler(assistant, **options) as running:
        for request in given:
            running.submit(request.job)
        found = [request.result() for request in given]
    for request, answer in zip(given, found, strict=True):
        turn = request.job.turn
        alone = assistant.chat(*turn.media).ask(turn.question, turn.decoding)
        assert (answer.text, answer.record.tokens["generated"]) == (alone.text, alone.record.tokens["generated"])
        assert isinstance(answer, FinishedAnswer)
        assert answer.record.seconds["prefill"] > 0


@pytest.mark.parametrize("min_pause", [0.0, 600.0])
def test_answers_go_on_while_a_medium_is_encoded(endless, clips, monkeypatch, min_pause):
    """Without pauses, each step of the encoder is followed by a token of each answer; in a long pause, by none."""
    monkeypatch.setattr(encoding_steps, "STEP_PRODUCTS_CPU", 1.0)
    read = endless.encode(clips["video"]).read
    seen, request = [], Request(endless, QUESTION, num_tokens=10_000)

    def steps():
        encoding = endless.engine.encode_steps(read)
        while True:
            seen.append(num_generated(running))
            try:
                next(encoding)
            except StopIteration as end:
                return end.value
            yield

    with scheduler(endless, max_pause=0.0, min_pause=min_pause) as running:
        running.submit(request.job)
        until(lambda: num_generated(running))
        running.call_steps(steps).result(PATIENCE)
        request.job.cancelled.set()
    gaps = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert len(gaps) > 8
    assert set(gaps) == ({1} if min_pause == 0 else {0})


def test_answers_go_on_while_a_prompt_is_processed(endless):
    first, second = Request(endless, QUESTION, num_tokens=10_000), Request(endless, LONG_QUESTION, num_tokens=2)
    num_prompt = len(second.job.turn.prompt.input_ids)
    with scheduler(endless, max_pause=0.0, prefill_chunk_tokens=4) as running:
        running.submit(first.job)
        until(lambda: num_generated(running))
        num_before = num_generated(running)
        running.submit(second.job)
        second.result()
        num_tokens = num_generated(running) - num_before
        first.job.cancelled.set()
    assert num_prompt > 100
    assert num_tokens >= num_prompt // 4


def test_prompts_and_calls_alternate(endless):
    """A long encoding does not delay a short prompt, nor a long prompt a medium."""
    started, go_on = threading.Event(), threading.Event()

    def endless_steps():
        started.set()
        while not go_on.is_set():
            yield

    with scheduler(endless) as running:
        call = running.call_steps(endless_steps)
        assert started.wait(PATIENCE)
        request = Request(endless, QUESTION, num_tokens=3)
        running.submit(request.job)
        assert request.result().reason == "length"
        assert not call.done()
        go_on.set()
        call.result(PATIENCE)


def test_requests_about_one_medium_that_arrive_together_share_its_prompt(assistant, clips):
    medium = assistant.encode(clips["video"])
    given = [Request(assistant, text, medium) for text in (QUESTION, LONG_QUESTION, "Why?")]
    with scheduler(assistant, prefix_tokens=4000) as running:
        blocked = threading.Event()
        running.call_steps(single_step(lambda: blocked.wait(PATIENCE)))
        for request in given:
            running.submit(request.job)
        blocked.set()
        tokens = [request.result().record.tokens for request in given]
    assert tokens[0]["reused"] == 0
    assert min(count["reused"] for count in tokens[1:]) > tokens[0]["media"]


def test_cancelled_call_ends(endless):
    started, closed = threading.Event(), threading.Event()

    def steps():
        try:
            while True:
                started.set()
                yield
        finally:
            closed.set()

    with scheduler(endless) as running:
        call = running.call_steps(steps)
        assert started.wait(PATIENCE)
        assert call.cancel()
        assert closed.wait(PATIENCE)
        assert running.call_steps(single_step(lambda: "next")).result(PATIENCE) == "next"


def test_failed_steps_fail_the_call_only(endless):
    def steps():
        yield
        raise RuntimeError("broken")

    with scheduler(endless) as running:
        with pytest.raises(RuntimeError, match="broken"):
            running.call_steps(steps).result(PATIENCE)
        assert running.call_steps(single_step(lambda: "next")).result(PATIENCE) == "next"


def test_stop_ends_work_in_progress(endless):
    def forever():
        while True:
            yield

    with scheduler(endless) as running:
        calls = [running.call_steps(forever), running.call_steps(single_step(lambda: None))]
    for call in calls:
        with pytest.raises(SchedulerStoppedError):
            call.result(PATIENCE)
