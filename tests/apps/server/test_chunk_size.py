"""Chunks of prompts fit into the time between two tokens."""

import math

import pytest

from video_llama.apps.server.chunk_size import MIN_TOKENS, ChunkSize


def test_whole_chunks_without_running_answers():
    chunk_size = ChunkSize(100)
    for seconds in (None, math.inf):
        chunk_size.seconds = seconds
        assert chunk_size.tokens() == 100
    chunk_size.measured(100, 1.0)
    assert chunk_size.tokens() == 100


@pytest.mark.parametrize(("seconds", "tokens"), [(0.2, 20), (0.001, MIN_TOKENS), (0.0, MIN_TOKENS), (50.0, 100)])
def test_chunk_fits_into_the_time(seconds, tokens):
    chunk_size = ChunkSize(100)
    chunk_size.seconds = seconds
    assert chunk_size.tokens() == MIN_TOKENS
    chunk_size.measured(10, 0.1)
    assert chunk_size.tokens() == tokens


def test_a_slow_chunk_counts_at_once():
    chunk_size = ChunkSize(1000)
    chunk_size.seconds = 1.0
    for seconds, tokens in ((0.01, 100), (0.05, 20), (0.01, 33)):
        chunk_size.measured(1, seconds)
        assert chunk_size.tokens() == tokens


def test_the_limit_holds_for_the_smallest_chunk_too():
    chunk_size = ChunkSize(2)
    chunk_size.seconds = 0.0
    assert chunk_size.tokens() == 2
    chunk_size.measured(2, 1.0)
    assert chunk_size.tokens() == 2
