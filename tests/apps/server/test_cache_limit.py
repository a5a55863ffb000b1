"""The caches stay within ``cache_bytes``; answers that do not fit wait, in the order of their arrival."""

import openai
import pytest
import torch

from tests.apps.server.conftest import ask, running
from tests.apps.server.test_work import LONG_QUESTION, QUESTION, Request, scheduler
from video_llama.apps.server.batch import DecodeBatch, PrefixCache
from video_llama.apps.server.cache_limit import (
    CacheLimit,
    CacheTooSmallError,
    bytes_per_token,
    free_bytes,
    medium_bytes,
    tokens_alone,
)


def limit_of(assistant, tokens):
    size = bytes_per_token(assistant.engine)
    return CacheLimit(int(tokens * size * 8 / 7) + size, size)


def test_bytes_per_token_are_those_of_the_cache(assistant):
    batch = DecodeBatch(assistant.engine, PrefixCache(0))
    turn = Request(assistant, QUESTION).job.turn
    batch.join(turn, ())
    buffers = [buffer for layer in batch._cache.layers for buffer in (layer.keys, layer.values)]
    assert sum(buffer.nbytes for buffer in buffers) == batch.num_tokens * bytes_per_token(assistant.engine)


def test_default_is_half_of_the_free_memory(assistant):
    free = free_bytes(torch.device("cpu"))
    assert free > 2**20
    assert CacheLimit.of(assistant.engine, None).num_bytes == pytest.approx(free / 2, rel=0.5)
    assert CacheLimit.of(assistant.engine, 12345).num_bytes == 12345


@pytest.mark.parametrize(("limit", "expected"), [("5000000", 3000000), ("1000000", 0), ("max", None)])
def test_free_memory_of_a_container(tmp_path, limit, expected):
    """3 MB are used, 1 MB of them by files that are not in use. cgroup v2 writes max for no limit."""
    texts = {"memory.max": limit, "memory.current": "3000000", "memory.stat": "anon 7\ninactive_file 1000000\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(f"{text}\n")
    found = free_bytes(torch.device("cpu"), tmp_path)
    assert found == expected if expected is not None else found > 2**20


def test_media_and_tokens_share_the_limit():
    limit = CacheLimit(8000, 100)
    assert (limit.media_bytes, limit.tokens) == (1000, 70)


def test_check(assistant):
    turn = Request(assistant, QUESTION).job.turn
    limit_of(assistant, tokens_alone(turn)).check(turn)
    with pytest.raises(CacheTooSmallError, match=r"needs up to .* MB of keys and values, but .* lower max_tokens"):
        limit_of(assistant, tokens_alone(turn) - 2).check(turn)


def test_medium_bytes(assistant, clips):
    medium = assistant.encode(clips["video"])
    assert medium_bytes(medium) > medium.video_tokens.nbytes + medium.read.frames.frames.nbytes
    assert medium_bytes(assistant.encode(clips["image"])) > 0


@pytest.mark.parametrize("prefix_tokens", [0, 4000])
def test_answers_start_in_order_and_stay_within_the_limit(assistant, prefix_tokens):
    """32 long and short requests in a cache that holds about three of the long ones."""
    given = [Request(assistant, (QUESTION, LONG_QUESTION)[number % 3 == 0], num_tokens=6) for number in range(32)]
    longest = max(tokens_alone(request.job.turn) for request in given)
    limit, started, used = limit_of(assistant, 3 * longest), [], []

    with scheduler(assistant, max_rows=16, prefix_tokens=prefix_tokens, cache_limit=limit) as made:
        report = made._report_memory

        def report_and_record():
            report()
            used.append((made._batch.num_tokens + made._prefixes.num_tokens, len(made._batch)))
            started.extend(row.job for row in made._rows if all(row.job is not job for job in started))

        made._report_memory = report_and_record
        for request in given:
            made.submit(request.job)
        answers = [request.result() for request in given]
    assert [id(job) for job in started] == [id(request.job) for request in given]
    assert max(tokens for tokens, _ in used) <= limit.tokens
    assert 1 < max(rows for _, rows in used) < 16
    for request, answer in zip(given[:2], answers, strict=False):
        turn = request.job.turn
        assert answer.text == assistant.chat().ask(turn.question, turn.decoding).text


def test_the_buffer_has_the_size_that_was_reserved(assistant):
    """Also where it grows by several rows at once: what is left of the limit is for kept prompts."""
    turn, batch = Request(assistant, QUESTION).job.turn, DecodeBatch(assistant.engine, PrefixCache(0))
    num_prompt, limit = len(turn.prompt.input_ids), 6 * tokens_alone(turn)
    while (reserved := batch.reserve(turn, limit)) <= limit:
        batch.join(turn, ())
        assert batch.num_tokens + num_prompt == reserved
    assert len(batch) > 5


def test_beam_search_counts_too(assistant):
    """A search and an answer that do not fit together run one after the other."""
    search, other = Request(assistant, QUESTION, num_tokens=6, num_beams=4), Request(assistant, QUESTION, num_tokens=6)
    limit = limit_of(assistant, tokens_alone(search.job.turn) + 1)
    together = []
    with scheduler(assistant, cache_limit=limit) as made:
        step = made._step
        made._step = lambda: (together.append(made._is_searching), step())
        made.submit(search.job)
        made.submit(other.job)
        search.result(), other.result()
    assert together
    assert not any(together)


@pytest.mark.parametrize(("summary", "num_tokens"), [(False, 250), (True, 20)])
def test_timelines_are_refused_too(assistant, clips, urls, summary, num_tokens):
    """The windows, or only the summary, whose prompt has all answers, do not fit."""
    turn = Request(assistant, "Hm?", assistant.encode(clips["silent"]), num_tokens=num_tokens).job.turn
    limit = limit_of(assistant, tokens_alone(turn) if summary else num_tokens)
    with running(assistant, cache_bytes=limit.num_bytes) as server:
        extension = {"video_llama": {"window": 1, "summary": summary}}
        with pytest.raises(openai.BadRequestError, match="this server keeps at most") as caught:
            server.client().chat.completions.create(
                model="tiny", messages=ask("Hm?", video=urls["silent"]), max_tokens=num_tokens, extra_body=extension
            )
        assert caught.value.code == "cache_too_small"


def test_server_refuses_what_never_fits_and_reports_its_caches(assistant, urls):
    size = bytes_per_token(assistant.engine)
    with running(assistant, cache_bytes=300 * size) as server:
        client = server.client()
        with pytest.raises(openai.BadRequestError, match="this server keeps at most") as caught:
            client.chat.completions.create(model="tiny", messages=ask(QUESTION), max_tokens=250)
        assert caught.value.code == "cache_too_small"
        for name in ("image", "silent"):
            client.chat.completions.create(model="tiny", messages=ask("Hm?", video=urls[name]), max_tokens=2)
        assert server.metric("video_llama_cache_limit_bytes") == 300 * size
        assert 0 <= server.metric("video_llama_cache_bytes", kind="media") <= 300 * size / 8
        prompts = server.metric("video_llama_cache_bytes", kind="prompts")
        assert 0 < prompts <= 300 * size * 7 / 8
        assert prompts % size == 0
