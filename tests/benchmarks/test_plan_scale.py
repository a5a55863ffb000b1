"""The plan of benchmarks/plan_scale.py: hours, GPU-hours and bottlenecks from given unit costs."""

import argparse

import pytest

from benchmarks.plan_scale import Model, gpu_seconds, plan

OPTIONS = {
    "clips": 3600,
    "nodes": 2,
    "gpus_per_node": 1,
    "cores_per_node": 4,
    "price": None,
    "core_speed": 1.0,
    "core_utilization": 0.5,
    "read_gb": 1.0,
    "prompt_tokens": 100,
    "answer_tokens": 10,
    "batch_size": 4,
    "peak_tflops": 10.0,
    "compute_utilization": 0.5,
    "bandwidth_tb": 2.0,
    "bandwidth_utilization": 0.5,
}


def options(**values):
    return argparse.Namespace(**{**OPTIONS, **values})


def test_seconds_of_a_gpu():
    """5 TFLOP/s and 1 TB/s are usable; a token is bound by the bandwidth, or by the products."""
    model = Model(5e12, 1e12, 1e9, decoder_bytes=4e9, cache_bytes_per_token=0.0)
    assert gpu_seconds(model, options()) == pytest.approx({"encode": 1.0, "prefill": 0.2, "generate": 10 * 0.001})
    assert gpu_seconds(model, options(batch_size=400))["generate"] == pytest.approx(10 * 0.0002)


def test_the_slowest_stage_bounds_the_run():
    gpu = {"encode": 1.0, "prefill": 0.5, "generate": 0.5}
    lines = plan(options(), gpu, core_seconds=1.0, clip_bytes=10**6, rows_per_second=1e9)
    assert "run: 1.0 hours, bound by GPU; 2 GPU-hours paid, of which 2 are used (100%); 1 clips/s" in lines
    lines = plan(options(price=3.0), gpu, core_seconds=8.0, clip_bytes=10**6, rows_per_second=1e9)
    assert "run: 2.0 hours, bound by decode; 4 GPU-hours paid, of which 2 are used (50%); 0 clips/s" in lines
    assert "cores per GPU that keep it busy: 8 (here 4)" in lines
    assert "cost at 3 per GPU-hour: 12" in lines
    lines = plan(options(), gpu, core_seconds=1.0, clip_bytes=10**6, rows_per_second=0.1)
    assert any("bound by write" in line for line in lines)
