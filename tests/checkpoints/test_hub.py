"""Downloads with huggingface_hub from a local server that imitates the Hub."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.factories.published_weights import OPTIONS, write_published

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/Video-LLaMA-2-Tiny"
DOWNLOAD = """
import sys
from video_llama.checkpoints.hub import download
from video_llama.errors import CheckpointError
try:
    print(download(sys.argv[1]))
except CheckpointError as error:
    sys.exit(f"CheckpointError: {error}")
"""


@pytest.fixture
def files(tmp_path) -> Path:
    folder = write_published(tmp_path / "repository")
    (folder / "README.md").write_text("not needed")
    return folder


@pytest.fixture
def endpoint(files) -> Iterator[str]:
    """A server with the Hub's three routes: the commit of a revision, its list of files, and the files."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            listed = sorted(path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file())
            if path in (f"/api/models/{NAME}/revision/main", f"/api/models/{NAME}"):
                siblings = [{"rfilename": name} for name in listed]
                self.answer(json.dumps({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings}).encode())
            elif path == f"/api/models/{NAME}/tree/{COMMIT}":
                self.answer(json.dumps([self.entry(name) for name in listed]).encode())
            elif path.startswith(f"/{NAME}/resolve/{COMMIT}/") and path.split(f"{COMMIT}/")[1] in listed:
                self.answer((files / path.split(f"{COMMIT}/")[1]).read_bytes())
            else:
                self.answer(b'{"error": "Repository not found"}', 404)

        def entry(self, name: str) -> dict:
            data = (files / name).read_bytes()
            return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

        def answer(self, data: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments: str, endpoint: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run Python in a new process: huggingface_hub reads the environment when it is imported."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, *arguments]
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=60, check=False)


def download(name: str, endpoint: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    return run("-c", DOWNLOAD, name, endpoint=endpoint, home=home, **environment)


def test_model_files_are_downloaded_once(tmp_path, files, endpoint):
    done = download(f"hub:{NAME}", endpoint, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
    assert found == there - {"README.md"}
    assert all((folder / name).read_bytes() == (files / name).read_bytes() for name in found)
    again = download(f"hub:{NAME}@main", "http://127.0.0.1:9", tmp_path / "home", HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout, again.stderr


def test_convert_from_the_hub(tmp_path, endpoint):
    target = tmp_path / "model"
    command = ("-m", "video_llama", "convert", "--from", f"hub:{NAME}", str(target), "--set", OPTIONS[0])
    done = run(*command, endpoint=endpoint, home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
    assert json.loads((target / "manifest.json").read_text())["sources"]["files"][0]["file"] == "eva_vit_g.pth"


def test_a_repository_that_does_not_exist(tmp_path, endpoint):
    done = download("hub:nobody/nothing", endpoint, tmp_path / "home")
    assert done.returncode == 1
    assert "CheckpointError: hub:nobody/nothing cannot be downloaded" in done.stderr
    assert "Check the name, the connection and HF_TOKEN" in done.stderr


def test_an_invalid_name(tmp_path, endpoint):
    done = download("hub:a/b/c", endpoint, tmp_path / "home")
    assert "CheckpointError: hub:a/b/c cannot be downloaded (HFValidationError" in done.stderr
