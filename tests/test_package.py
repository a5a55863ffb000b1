"""The installed package: import time, public names, and declared dependencies."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import video_llama

if sys.version_info >= (3, 11):
    import tomllib
else:  # installed with pytest
    import tomli as tomllib

HEAVY = ("torch", "transformers", "gradio", "av", "numpy", "pydantic")
NEVER_IN_THE_CORE = {"torchvision", "torchaudio", "torchcodec", "decord", "pytorchvideo", "bitsandbytes"}


def in_a_fresh_process(code: str) -> dict:
    """Run ``code`` and return the JSON of its last line of output."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def loaded(code: str) -> set[str]:
    """Return the top-level packages that ``code`` imports."""
    report = "import json, sys; print(json.dumps({'names': sorted({m.partition('.')[0] for m in sys.modules})}))"
    return set(in_a_fresh_process(f"{code}\n{report}")["names"])


def test_import_loads_nothing_heavy():
    assert loaded("import video_llama").isdisjoint(HEAVY)


def test_import_is_silent():
    run = subprocess.run([sys.executable, "-c", "import video_llama"], capture_output=True, check=True)
    assert run.stdout == run.stderr == b""


def test_dir_lists_the_public_names_before_they_are_used():
    assert loaded("import video_llama; assert set(video_llama.__all__) <= set(dir(video_llama))").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", video_llama.__all__)
def test_public_name(name):
    assert getattr(video_llama, name) is not None


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'video_llama' has no attribute 'lode'"):
        video_llama.lode  # noqa: B018


def test_version(repository):
    assert re.fullmatch(r"\d+\.\d+\.\d+", video_llama.__version__)
    assert "## [Unreleased]" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


class TestDeclared:
    """The dependencies in pyproject.toml."""

    @pytest.fixture
    def project(self, repository) -> dict:
        return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def test_core_is_bounded_and_plain(self, project):
        names = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
        assert names.isdisjoint(NEVER_IN_THE_CORE)
        assert all(">=" in line for line in project["dependencies"])
        assert "torch>=2.6,<2.14" in project["dependencies"]

    def test_extras(self, project):
        assert {
            "demo",
            "serve",
            "train",
            "plot",
            "evaluate",
            "quant",
            "heic",
            "gguf",
            "ggml",
            "parquet",
            "scale",
            "dev",
        } == set(project["optional-dependencies"])

    def test_pins_are_within_the_bounds(self, project, repository):
        from packaging.requirements import Requirement

        lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith(("#", "-")))
        extras = (line for group in project["optional-dependencies"].values() for line in group)
        for requirement in map(Requirement, [*project["dependencies"], *extras]):
            name = requirement.name.lower()
            if name in pins:
                assert requirement.specifier.contains(pins[name]), f"{requirement} does not allow {pins[name]}"
        core = {Requirement(line).name.lower() for line in project["dependencies"]}
        assert core <= set(pins)


def every_yaml() -> list[Path]:
    root = Path(__file__).resolve().parent.parent
    ours = (path for path in root.iterdir() if path.name not in {"runs", "output"} and not path.name.startswith("."))
    nested = (file for folder in ours if folder.is_dir() for file in folder.rglob("*.y*ml"))
    return sorted([*root.glob("*.y*ml"), *root.glob(".*.y*ml"), *nested])


class TaskLoader(yaml.SafeLoader):
    """Reads lmms-eval's ``!function module.name`` as text."""


TaskLoader.add_constructor("!function", TaskLoader.construct_yaml_str)


@pytest.mark.parametrize("path", every_yaml(), ids=lambda path: path.name)
def test_yaml_parses(path):
    assert yaml.load(path.read_text(encoding="utf-8"), TaskLoader)
