"""Content of media parts: base64 and URLs, and only those local files that are below the media folder."""

import base64
import os
import time
from unittest.mock import patch
from urllib.parse import quote, unquote_to_bytes

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.apps.server.conftest import ask, running
from video_llama.apps.server import media_input
from video_llama.apps.server.media_input import (
    MediaBytes,
    MediaInput,
    decode_base64,
    decode_data_url,
    read_local_file,
    unquote_bytes,
)
from video_llama.apps.server.protocol import ImagePart
from video_llama.apps.server.settings import ServerSettings
from video_llama.errors import MediaError

LIMIT = 1000


@pytest.fixture
def root(tmp_path):
    """A media folder with two files, and other files next to it."""
    root = tmp_path / "media"
    (root / "inner").mkdir(parents=True)
    (root / "a clip.mp4").write_bytes(b"ours")
    (root / "inner" / "b.mp4").write_bytes(b"inner")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media-and-more").mkdir()
    (tmp_path / "media-and-more" / "c.mp4").write_bytes(b"secret")
    return root


def test_reads_below_the_folder(root):
    assert read_local_file(f"file://{root}/a%20clip.mp4", root, LIMIT) == b"ours"
    assert read_local_file(f"file://localhost{root}/inner/../inner/b.mp4", root, LIMIT) == b"inner"


def test_link_within_the_folder(root):
    (root / "link.mp4").symlink_to(root / "inner" / "b.mp4")
    assert read_local_file(f"file://{root}/link.mp4", root, LIMIT) == b"inner"


OUTSIDE = {
    "traversal": "{root}/../secret",
    "encoded traversal": "{root}/%2e%2e/secret",
    "encoded slash": "{root}/..%2fsecret",
    "sibling with the same prefix": "{root}-and-more/c.mp4",
    "absolute": "/etc/passwd",
    "process": "/proc/self/environ",
    "missing": "{root}/missing.mp4",
    "folder": "{root}/inner",
    "the folder itself": "{root}",
    "zero byte": "{root}/a%20clip.mp4%00.png",
    "link to a file": "{root}/link",
    "link to a folder": "{root}/out/secret",
    "circular link": "{root}/circle",
    "pipe": "{root}/pipe",
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_files_outside_are_refused(root, name):
    (root / "link").symlink_to(root.parent / "secret")
    (root / "out").symlink_to(root.parent)
    (root / "circle").symlink_to(root / "circle")
    os.mkfifo(root / "pipe")
    with pytest.raises(MediaError, match="is not a file below the server's media folder"):
        read_local_file("file://" + OUTSIDE[name].format(root=root), root, LIMIT)


def test_other_host(root):
    with pytest.raises(MediaError, match="is not a file below"):
        read_local_file(f"file://elsewhere{root}/a%20clip.mp4", root, LIMIT)


def test_too_large(root):
    (root / "large.mp4").write_bytes(bytes(LIMIT + 1))
    with pytest.raises(MediaError, match=r"large\.mp4 has 1,001 bytes; the limit is 1,000"):
        read_local_file(f"file://{root}/large.mp4", root, LIMIT)


def test_disabled_by_default():
    with pytest.raises(MediaError, match="start the server with --media-root FOLDER"):
        read_local_file("file:///etc/passwd", None, LIMIT)


def test_server_reads_below_the_folder(assistant, clips):
    with running(assistant, media_root=clips["image"].parent) as server:

        def reply(path):
            return server.client().chat.completions.create(
                model="tiny", messages=ask("What do you see?", image=f"file://{path}"), max_tokens=2
            )

        assert reply(clips["image"]).choices
        with pytest.raises(openai.BadRequestError, match="is not a file below"):
            reply("/etc/passwd")


BAD_MEDIA = {
    "invalid base64": (
        "data:video/mp4;base64,@@@@",
        "messages[0].content[1].video_url: The content is not valid base64",
    ),
    "cut base64": ("data:video/mp4;base64,AAA", "its length is not a multiple of 4"),
    "no comma": ("data:video/mp4", "messages[0].content[1].video_url: The data: URL has no comma"),
    "empty": ("data:video/mp4;base64,", r"messages[0].content[1] is empty"),
    "not media": ("data:video/mp4;base64,aGVsbG8=", r"messages[0].content[1] cannot be read as video"),
    "remote": ("https://example.org/clip.mp4", "messages[0].content[1].video_url: This server does not fetch media"),
    "long local": ("file:///" + "a/" * 3000, "The URL has 6,008 characters; the limit is 4,096"),
    "local": ("file:///etc/passwd", "--media-root"),
    "scheme": ("ftp://example.org/clip.mp4", "The URL must start with data:, http:, https: or file:"),
}


@pytest.mark.parametrize("name", BAD_MEDIA)
def test_bad_media(client, name):
    url, message = BAD_MEDIA[name]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ask("What do you see?", video=url))
    assert message in caught.value.body["message"]
    assert (caught.value.code, caught.value.param) == ("bad_media", "messages[0].content[1].video_url")


def test_image_as_audio_is_refused(client, urls):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=ask("What do you hear?", audio=urls["image"]))


def image_part(url: str) -> ImagePart:
    return ImagePart.model_validate({"type": "image_url", "image_url": {"url": url}})


def test_content_of_data_urls():
    content = MediaInput(ServerSettings()).get(image_part("data:image/png;base64,aGVsbG8="), "messages[0].content[1]")
    assert content == MediaBytes("messages[0].content[1]", "image", b"hello")
    assert MediaInput(ServerSettings()).get(image_part("data:,a%20b"), "here").data == b"a b"


def test_size_limit():
    with pytest.raises(MediaError, match=r"here has 5 bytes; the limit is 4\. Send a smaller file"):
        MediaInput(ServerSettings(max_media_bytes=4)).get(image_part("data:,hello"), "here")


@given(st.binary(max_size=100), st.sampled_from(["", "\n", "\r\n", " \t"]), st.integers(1, 9))
def test_base64_with_line_breaks(data, line_break, width):
    text = base64.b64encode(data).decode()
    lines = line_break.join(text[start : start + width] for start in range(0, len(text), width))
    assert decode_base64(lines.encode()) == data
    assert decode_data_url(f"data:;base64,{lines}") == decode_data_url(f"data:;base64,{quote(text)}") == data


@pytest.mark.parametrize("text", ["A", "AA=", "A===", "====", "AA==AAAA", "AA-_", "AAA\u00e9", "A" * 2**20 + "=AAA"])
def test_invalid_base64(text):
    with pytest.raises(MediaError, match="not valid base64"):
        decode_base64(text.encode())


@given(st.binary(max_size=60) | st.text("%0aF", max_size=60).map(str.encode), st.integers(1, 20))
def test_percent_encoding(text, block_bytes):
    with patch.object(media_input, "BLOCK_BYTES", max(3, block_bytes)):
        assert unquote_bytes(text) == unquote_to_bytes(text)


def test_percent_encoding_of_a_large_url_is_fast():
    start = time.process_time()
    assert unquote_bytes(b"%00" * 2_000_000) == bytes(2_000_000)
    assert time.process_time() - start < 5
