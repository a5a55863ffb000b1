"""The GPU benchmark on a CPU with a tiny model, and the stand-ins for packages that a bare machine lacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bare_machine

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("conformance", "ceilings", "encode", "decode", "train", "serve")

WITHOUT_MEDIA = """
import sys
from importlib.util import find_spec
sys.path.insert(0, {root!r})
for name in ("av", "PIL", "prometheus_client"):
    sys.modules[name] = None  # as if it were not installed
import benchmarks.bare_machine as bare
bare.importlib.util.find_spec = lambda name: None if name in (*bare.MEDIA, *bare.METRICS) else find_spec(name)
missing = bare.add_stand_ins()
for name in missing:
    sys.modules.pop(name, None)
import benchmarks.gpu_training
print(*missing)
"""


def test_a_stand_in_can_be_imported_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, bare_machine._Finder(("av_not_installed",))])
    import av_not_installed.filter as module  # type: ignore[import-not-found]

    assert issubclass(module.Graph.Error, Exception)
    with pytest.raises(ModuleNotFoundError, match=r"av_not_installed\.filter\.Graph was used"):
        module.Graph()
    sys.modules.pop("av_not_installed.filter"), sys.modules.pop("av_not_installed")


@pytest.mark.slow
def test_its_modules_load_without_packages_for_media() -> None:
    script = WITHOUT_MEDIA.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"av", "PIL", "prometheus_client"} <= set(done.stdout.split())


@pytest.mark.slow
def test_every_step_gives_results(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--out", str(out)]
    done = subprocess.run([*command, "--steps", *STEPS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert {result["step"] for result in report["results"]} == set(STEPS)
    [golden, *_] = report["results"]
    assert golden["failing_cases"] == []
    assert "| decode, bfloat16, batch 8 |" in done.stdout


@pytest.mark.slow
def test_time_that_is_up(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--minutes", "0"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out: conformance" in done.stdout
    assert json.loads(out.read_text())["results"] == []


def test_without_a_gpu() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cuda"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2
    assert "--device cpu --tiny" in done.stderr
