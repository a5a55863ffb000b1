"""video-llama benchmark."""

import json

import pytest

from tests.cli.conftest import assert_one_line, invoke
from video_llama.cli.benchmark import _best
from video_llama.models import cpu_benchmark
from video_llama.models.cpu_benchmark import FormSpeed, Timing


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cpu_benchmark, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(cpu_benchmark, "BANDWIDTH_BYTES", 2**20)
    monkeypatch.setattr(cpu_benchmark, "GEMM_SIZE", 64)


def speed(name, seconds, memory):
    time = Timing(seconds, seconds, seconds)
    return FormSpeed(name, {}, {}, time, time, time, memory, 1.0, 1)


def test_a_table_and_the_options_to_choose():
    result = invoke("benchmark", "--model", "miniature")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "GFLOP/s" in lines[1]
    assert lines[2].split()[:2] == ["form", "encode"]
    assert [line.split("  ")[0] for line in lines[3:-1]] == list(cpu_benchmark.supported_forms())
    assert lines[-1].startswith("Fastest that fits: ")


def test_json():
    result = invoke("benchmark", "--model", "miniature", "--json")
    report = json.loads(result.output)
    fitting = [form for form in report["forms"] if form["memory"] <= report["memory"]]
    assert report["best"] == min(fitting, key=lambda form: form["answer"])["name"]


def test_a_form_that_does_not_fit_is_not_chosen():
    fast, slow = speed("fast", 1.0, 100), speed("slow", 2.0, 10)
    assert _best([fast, slow], 200) is fast
    assert _best([fast, slow], 50) is slow
    assert _best([fast, slow], 5) is None
    assert _best([fast, slow], None) is fast


def test_unknown_size():
    assert_one_line(invoke("benchmark", "--size", "70b"), "Choose 7b or 13b")
