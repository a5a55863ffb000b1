"""``video-llama train --dry-run``: the plan as text and as JSON."""

import json

import pytest

from tests.cli.conftest import assert_one_line, invoke
from video_llama.cli.dry_run import memory_bytes


def test_the_plan(training_yaml):
    result = invoke("train", training_yaml, "--dry-run", "--gpu-memory", "24GB", "--world-size", "2")
    assert result.exit_code == 0, result.output
    for line in ("2 processes on cpu", "optimizer states", "peak of a step", "steps per epoch: ", "24 GB: fits"):
        assert line in result.stdout


@pytest.mark.slow
def test_json_with_remedies(training_yaml):
    result = invoke("train", training_yaml, "--dry-run", "--json", "--gpu-memory", "1MB")
    plan = json.loads(result.stdout)
    assert plan["fits"] is False
    assert plan["peak"] == max(plan["setup"], sum(plan["at_peak"].values()))
    assert plan["remedies"][0]["set"][0].startswith("run.batch_size_train=")
    assert all(remedy["peak"] <= plan["peak"] for remedy in plan["remedies"])


@pytest.mark.parametrize(("text", "size"), [("24GB", 24 * 10**9), ("80 GiB", 80 * 2**30), (None, None), ("512", 512)])
def test_memory_sizes(text, size):
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "-3GB", "24TB"])
def test_other_texts_are_refused(training_yaml, text):
    assert_one_line(invoke("train", training_yaml, "--dry-run", f"--gpu-memory={text}"), "--gpu-memory is ")
