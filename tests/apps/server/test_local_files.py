"""Files below the media folder, and nothing else of the disk, by whatever name."""

import os

import openai
import pytest

from tests.apps.server.conftest import ask, running
from video_llama.apps.server.media_input import read_local
from video_llama.errors import MediaError

LIMIT = 1000


@pytest.fixture
def root(tmp_path):
    """A folder with a file, beside a file that is none of its."""
    root = tmp_path / "media"
    (root / "inner").mkdir(parents=True)
    (root / "a clip.mp4").write_bytes(b"ours")
    (root / "inner" / "b.mp4").write_bytes(b"inner")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media-and-more").mkdir()
    (tmp_path / "media-and-more" / "c.mp4").write_bytes(b"secret")
    return root


def test_reads_below_the_folder(root):
    assert read_local(f"file://{root}/a%20clip.mp4", root, LIMIT) == b"ours"
    assert read_local(f"file://localhost{root}/inner/../inner/b.mp4", root, LIMIT) == b"inner"


def test_link_within_the_folder(root):
    (root / "link.mp4").symlink_to(root / "inner" / "b.mp4")
    assert read_local(f"file://{root}/link.mp4", root, LIMIT) == b"inner"


OUTSIDE = {
    "traversal": "{root}/../secret",
    "encoded traversal": "{root}/%2e%2e/secret",
    "encoded slash": "{root}/..%2fsecret",
    "sibling with the same beginning": "{root}-and-more/c.mp4",
    "absolute": "/etc/passwd",
    "process": "/proc/self/environ",
    "missing": "{root}/missing.mp4",
    "folder": "{root}/inner",
    "the folder itself": "{root}",
    "zero byte": "{root}/a%20clip.mp4%00.png",
    "link to a file": "{root}/link",
    "link to a folder": "{root}/out/secret",
    "link in a circle": "{root}/circle",
    "pipe": "{root}/pipe",
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_else(root, name):
    (root / "link").symlink_to(root.parent / "secret")
    (root / "out").symlink_to(root.parent)
    (root / "circle").symlink_to(root / "circle")
    os.mkfifo(root / "pipe")
    with pytest.raises(MediaError, match="is no file below the server's media folder"):
        read_local("file://" + OUTSIDE[name].format(root=root), root, LIMIT)


def test_other_host(root):
    with pytest.raises(MediaError, match="is no file below"):
        read_local(f"file://elsewhere{root}/a%20clip.mp4", root, LIMIT)


def test_too_large(root):
    (root / "large.mp4").write_bytes(bytes(LIMIT + 1))
    with pytest.raises(MediaError, match=r"large\.mp4 has 1,001 bytes; the server takes 1,000"):
        read_local(f"file://{root}/large.mp4", root, LIMIT)


def test_off_by_default():
    with pytest.raises(MediaError, match="start it with --media-root"):
        read_local("file:///etc/passwd", None, LIMIT)


def test_through_the_server(assistant, clips):
    with running(assistant, media_root=clips["image"].parent) as server:

        def asked(path):
            return server.client().chat.completions.create(
                model="tiny", messages=ask("What do you see?", image=f"file://{path}"), max_tokens=2
            )

        assert asked(clips["image"]).choices
        with pytest.raises(openai.BadRequestError, match="is no file below"):
            asked("/etc/passwd")
