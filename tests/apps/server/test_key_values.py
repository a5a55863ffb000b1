"""Buffers of keys and values hold what is written, whichever rows join and leave."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from video_llama.apps.server import key_values
from video_llama.apps.server.key_values import PromptKeyValues, RowsKeyValues
from video_llama.models.encoding_steps import run_steps

NUM_LAYERS, HEADS, WIDTH = 2, 3, 4
COMMANDS = st.lists(st.tuples(st.sampled_from(["join", "leave", "step"]), st.integers(0, 5)), max_size=30)


def random_pairs(length, rows=1):
    return [tuple(torch.randn(rows, HEADS, length, WIDTH) for _ in "kv") for _ in range(NUM_LAYERS)]


def nan_buffer(like, num_rows, num_columns):
    """A buffer with the worst content that memory can have."""
    return like.new_full((num_rows, like.shape[1], num_columns, like.shape[3]), torch.nan)


def test_prompt_equals_dynamic_cache():
    prefix, parts = random_pairs(4), [random_pairs(3), random_pairs(1)]
    ours, theirs = PromptKeyValues(NUM_LAYERS, 8), DynamicCache(prefix)
    run_steps(ours.begin_steps(prefix))
    for part in parts:
        for layer, (keys, values) in enumerate(part):
            found, expected = ours.update(keys, values, layer), theirs.update(keys, values, layer)
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert (ours.get_seq_length(), ours.get_mask_sizes(2, 0)) == (8, (10, 0))
    assert ours.key_values()[0][0].data_ptr() == ours.layers[0].keys.data_ptr()  # not a copy


@pytest.mark.parametrize("many_tokens", [1, 256])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=COMMANDS)
def test_rows_are_those_of_a_list(monkeypatch, many_tokens, commands):
    """The reference keeps each row as tensors of its own. Long rows are appended in steps, while others go on."""
    monkeypatch.setattr(key_values, "MANY_TOKENS", many_tokens)
    monkeypatch.setattr(key_values, "_buffer", nan_buffer)
    cache, expected = RowsKeyValues(NUM_LAYERS, max_rows=4), []
    appending = None

    def go_on():
        nonlocal appending
        if appending is not None:
            steps, pairs = appending
            try:
                next(steps)
            except StopIteration:
                expected.append([list(pair) for pair in pairs])
                appending = None

    for command, number in commands:
        if command == "join" and len(expected) < 4 and appending is None:
            pairs = random_pairs(number + 1)
            appending = cache.append_steps(pairs, number + 40), pairs
            go_on()
        elif command == "join":
            go_on()
        elif command == "leave" and expected:
            row = number % len(expected)
            cache.remove(row)
            expected[row] = expected[-1]
            expected.pop()
        elif command == "step" and expected:
            mask, positions = cache.begin_step(torch.float32)
            for layer, new in enumerate(random_pairs(1, rows=len(expected))):
                found = cache.update(*new, layer)
                for row, reference in enumerate(expected):
                    for which in (0, 1):
                        reference[layer][which] = torch.cat([reference[layer][which], new[which][row : row + 1]], dim=2)
                        visible = found[which][row, :, mask[row, 0, 0] == 0]
                        assert torch.equal(visible, reference[layer][which][0])
                        assert found[which].isfinite().all()
            assert positions[:, 0].tolist() == [row[0][0].shape[2] - 1 for row in expected]
            cache.end_step()
        assert cache.lengths == [row[0][0].shape[2] for row in expected]
        assert cache.num_tokens >= len(expected) * max(cache.final_lengths, default=0)
        assert expected or appending is not None or cache.num_tokens == 0


def test_memory_is_released_with_the_rows_that_need_it():
    cache = RowsKeyValues(NUM_LAYERS, max_rows=8)
    for final_length in (10, 10, 1000):
        cache.append(random_pairs(5), final_length)
    assert cache.num_tokens >= 3000
    cache.remove(2)
    assert cache.num_tokens == 20
    assert cache.layers[0].keys.shape == (2, HEADS, 10, WIDTH)


def test_a_row_that_is_not_completed_leaves_nothing(monkeypatch):
    monkeypatch.setattr(key_values, "MANY_TOKENS", 1)
    cache = RowsKeyValues(NUM_LAYERS, max_rows=2)
    steps = cache.append_steps(random_pairs(5), 10)
    next(steps)
    assert (cache.lengths, cache.num_tokens) == ([], 10)
    steps.close()
    assert (cache.num_tokens, cache.layers[0].keys) == (0, None)


def test_steps_between_the_layers_of_a_shorter_row(monkeypatch):
    """The columns that the running row fills meanwhile are zero in the new one."""
    monkeypatch.setattr(key_values, "MANY_TOKENS", 1)
    monkeypatch.setattr(key_values, "_buffer", nan_buffer)
    cache = RowsKeyValues(NUM_LAYERS, max_rows=2)
    cache.append(random_pairs(5), 20)
    steps = cache.append_steps(random_pairs(2), 20)
    next(steps)
    decoded = decode(cache)
    run_steps(steps)
    decoded += decode(cache)
    assert all(tensor.isfinite().all() for tensor in decoded)


def decode(cache):
    cache.begin_step(torch.float32)
    rows = len(cache.lengths)
    found = [each for layer, pair in enumerate(random_pairs(1, rows)) for each in cache.update(*pair, layer)]
    cache.end_step()
    return found


def test_an_error_while_a_row_is_appended_releases_its_memory(monkeypatch):
    cache = RowsKeyValues(NUM_LAYERS, max_rows=2)
    monkeypatch.setattr(cache, "_copy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.append(random_pairs(5), 10)
    assert cache.num_tokens == 0


def test_number_of_rows_doubles_up_to_the_maximum():
    cache = RowsKeyValues(NUM_LAYERS, max_rows=6)
    rows = []
    for _ in range(6):
        cache.append(random_pairs(5), 10)
        rows.append(cache.num_tokens // 10)
    assert rows == [1, 2, 4, 4, 6, 6]
