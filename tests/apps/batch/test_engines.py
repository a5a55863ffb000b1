"""The choice of the engine and its options. The local engine is tested in test_run.py."""

import sys

import pytest

from video_llama.apps.batch.engines import EngineOptions, make_engine
from video_llama.apps.batch.limits import BatchLimits
from video_llama.errors import MissingExtraError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions("dask"), "engine is 'dask'"),
        (EngineOptions(num_gpus=1), "options of Ray"),
        (EngineOptions("ray", max_workers=1), r"max_workers is 1, less than workers \(2\)"),
        (EngineOptions("ray", num_cpus=-1), "must not be negative"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        options.check(2)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'video-llama\[scale\]'"):
        make_engine(EngineOptions("ray"), lambda number: None, 1, BatchLimits(), 1)
