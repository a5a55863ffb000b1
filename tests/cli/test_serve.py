"""``video-llama serve``: its settings and errors. Its answers and its shutdown are tested in tests/apps/server."""

import subprocess
import sys

import pytest

from tests.cli.conftest import assert_one_line, invoke
from video_llama.cli.serve import server_settings, split_overrides


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "max_rowz=1"], "max_rowz: unknown key. Did you mean max_rows?"),
        (["--set", "max_rows=0"], "max_rows"),
        (["--port", "99999"], "65535"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_refusals(arguments, message):
    result = invoke("serve", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_LLAMA_API_KEY", "s3cret")
    settings = server_settings(["max_rows=3"], ["example.org"], tmp_path)
    assert (settings.max_rows, settings.allowed_hosts, settings.media_root) == (3, ("example.org",), tmp_path)
    assert settings.api_key.get_secret_value() == "s3cret"


def test_set_takes_limits_and_keys_of_the_yaml():
    given = ["max_rows=3", "model.ckpt=a.pth", "media_root=/data/a.b"]
    assert split_overrides(given) == (["max_rows=3", "media_root=/data/a.b"], ["model.ckpt=a.pth"])


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_absence_names_the_extra(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from video_llama.apps.server import make_server\n"
        "try: make_server(None)\nexcept Exception as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{package} is not installed. Install it with: pip install 'video-llama[serve]'" in run.stdout


def test_import_loads_no_framework():
    code = "import sys, video_llama.apps.server as s; print(bool({'fastapi', 'uvicorn', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--replicas", 2), "are options of Ray. Add --engine ray."),
        (("--engine", "dask"), "--engine is 'dask'. Choose local or ray."),
        (("--engine", "ray", "--replicas", 0), "replicas is 0. Give 1 or more."),
    ],
)
def test_options_of_the_engine(arguments, message):
    assert_one_line(invoke("serve", *arguments), message)
