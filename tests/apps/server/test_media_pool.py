"""Media are decoded elsewhere, to the same numbers; a file that breaks the decoder breaks one process, one request."""

import asyncio
import io
import os
import signal
import struct
import threading
import zlib

import numpy as np
import openai
import pytest

from tests.apps.server.conftest import ask, data_url, running, until
from video_llama.apps.server import ServerSettings
from video_llama.apps.server.media_pool import MediaPool
from video_llama.apps.server.media_wire import LENGTH, WireError, array_sizes, header_length, parse_header
from video_llama.chat.media import MediaOptions
from video_llama.errors import MediaError
from video_llama.processors import FrameSampling, read_video

QUESTION = "What do you see?"
MEBIBYTE = 2**20


def read(assistant, *requests, **settings):
    """What a pool makes of (data, kind, options) requests, one after another: media or errors; and how many died."""
    deaths = []

    async def work():
        pool = MediaPool(assistant.engine, ServerSettings(media_workers=1, **settings), lambda: deaths.append(1))
        results = []
        for data, kind, options in requests:
            try:
                results.append(await pool.read(data, "a file", kind, options))
            except MediaError as error:
                results.append(error)
        await pool.close()
        return results

    return asyncio.run(work()), len(deaths)


def test_is_what_is_read_here(assistant, clips):
    kinds = {"video": "video", "silent": None, "sound": "audio", "image": "image"}
    options = MediaOptions(FrameSampling(times=(0.2, 1.1)))
    asked = [(clips[name].read_bytes(), kind, options) for name, kind in kinds.items()]
    media, deaths = read(assistant, *asked)
    for there, (name, kind) in zip(media, kinds.items(), strict=True):
        here = assistant.engine.read(clips[name], options, kind)
        assert (there.kind, there.why_no_frames, there.why_no_sound) == (
            here.kind,
            here.why_no_frames,
            here.why_no_sound,
        )
        assert there.source == "a file"
        for part, array in (("frames", "frames"), ("sound", "mel")):
            ours, theirs = getattr(here, part), getattr(there, part)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                same, other = vars(ours), vars(theirs)
                np.testing.assert_array_equal(same[array], other[array])
                rest = same.keys() - {array, "source"}
                assert {key: same[key] for key in rest} == {key: other[key] for key in rest}
    assert deaths == 0


def grey_bomb(side: int) -> bytes:
    """A PNG of some hundred kilobytes: ``side`` x ``side`` zeros in 16 bit grey, which our conversion widens to 64."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes((1 + 2 * side) * side))
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_bomb_ends_its_process_and_the_next_file_is_read(assistant, clips):
    asked = [(grey_bomb(7000), "image", MediaOptions()), (clips["image"].read_bytes(), "image", MediaOptions())]
    (bomb, image), deaths = read(assistant, *asked, media_worker_bytes=768 * MEBIBYTE)
    assert "needs more memory than a medium may take" in str(bomb)
    assert image.frames is not None
    assert deaths == 1


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        ({"max_media_pixels": 1000}, "image", r"a file is 60 x 40 pixels; the server takes 1,000\. Make it smaller"),
        ({"max_media_pixels": 1000}, "video", r"a file is 64 x 48 pixels"),
        ({"max_media_seconds": 2.5}, "video", r"a file lasts 3\.\d s; the server takes 2\.5 s\. Cut a part out"),
        ({"max_media_seconds": 2.5}, "sound", r"a file lasts 3\.0 s"),
    ],
)
def test_limits(assistant, clips, settings, name, message):
    [error], deaths = read(assistant, (clips[name].read_bytes(), None, MediaOptions()), **settings)
    with pytest.raises(MediaError, match=message):
        raise error
    assert deaths == 0


def test_options_that_cannot_be(assistant, clips):
    options = MediaOptions(FrameSampling(num_frames=99))
    [error], deaths = read(assistant, (clips["video"].read_bytes(), "video", options))
    assert "99 frames are asked for, the limit is 8" in str(error)
    assert deaths == 0


class TestWhileAsked:
    """A server whose one media process is stopped, so that a request waits in it."""

    @pytest.fixture(params=[120.0])
    def stopped(self, request, assistant, urls):
        with running(assistant, media_workers=1, media_worker_seconds=request.param) as server:
            self.ask(server, urls["image"])
            [pid] = server.service.media_pids
            os.kill(pid, signal.SIGSTOP)
            yield server, pid

    @staticmethod
    def ask(server, url):
        return server.client().chat.completions.create(model="tiny", messages=ask(QUESTION, video=url), max_tokens=2)

    def test_killed_process_is_a_clean_error_and_the_next_request_succeeds(self, stopped, urls):
        server, pid = stopped
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(openai.BadRequestError, match="ended the process that decoded it") as caught:
            self.ask(server, urls["video"])
        assert caught.value.code == "bad_media"
        assert self.ask(server, urls["video"]).choices
        assert server.service.media_pids != [pid]
        assert server.metric("video_llama_media_worker_deaths_total") == 1

    @pytest.mark.parametrize("stopped", [4.0], indirect=True)
    def test_process_that_overruns_is_killed(self, stopped, clips, urls):
        server, pid = stopped
        with pytest.raises(openai.BadRequestError, match="took longer than 4 s to decode"):
            self.ask(server, urls["video"])
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        # An image that was never sent takes hundredths of a second, so that a busy machine does not overrun as well.
        assert self.ask(server, data_url(clips["image"].read_bytes() + b"more", "image/png")).choices

    def test_client_that_leaves_takes_its_process_along(self, stopped, urls):
        server, pid = stopped
        impatient = server.client().with_options(timeout=0.3)
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model="tiny", messages=ask(QUESTION, video=urls["video"]))
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        until(lambda: server.service.num_taken == 0)

    def test_two_who_ask_about_one_file_share_its_reading(self, stopped, urls):
        server, pid = stopped
        threads = [threading.Thread(target=self.ask, args=(server, urls["silent"])) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: server.metric("video_llama_media_total", found="shared") == 2)
        os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert server.metric("video_llama_media_total", found="encoded") == 2  # this one, and the first image
        self.ask(server, urls["silent"])
        assert server.metric("video_llama_media_total", found="kept") == 1


def test_process_knows_no_secret(assistant, clips, monkeypatch):
    monkeypatch.setenv("VIDEO_LLAMA_API_KEY", "s3cret")

    async def environment() -> bytes:
        pool = MediaPool(assistant.engine, ServerSettings(), lambda: None)
        await pool.read(clips["image"].read_bytes(), "a file", "image", MediaOptions())
        [pid] = pool.pids
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
        await pool.close()
        return content

    assert b"s3cret" not in asyncio.run(environment())


def test_playlist_sent_as_bytes_reads_no_file(clips, monkeypatch):
    monkeypatch.chdir(clips["silent"].parent)
    playlist = f"ffconcat version 1.0\nfile {clips['silent'].name}\n"
    with pytest.raises(MediaError, match="cannot be read as video or sound"):
        read_video(playlist.encode())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"arrays": [{"dtype": "object", "shape": [1]}]},
        {"arrays": [{"dtype": "uint8", "shape": [-1]}]},
        {"arrays": [{"dtype": "uint8", "shape": [2**29]}]},
        {"arrays": 3},
    ],
)
def test_wire_believes_nothing(fields):
    with pytest.raises(WireError):
        array_sizes(fields)


def test_wire_headers():
    assert parse_header(b'{"a": 1}') == {"a": 1}
    for header in (b"[]", b"\xff", b"{"):
        with pytest.raises(WireError):
            parse_header(header)
    with pytest.raises(WireError, match="a header of 4294967295 bytes"):
        header_length(LENGTH.pack(2**32 - 1))


def test_large_image_is_refused_by_its_header(client):
    with pytest.raises(openai.BadRequestError, match="is 8000 x 8000 pixels"):
        client.chat.completions.create(
            model="tiny", messages=ask(QUESTION, image=data_url(grey_bomb(8000), "image/png")), max_tokens=1
        )


def test_bomb_is_small():
    assert len(grey_bomb(7000)) < MEBIBYTE
    from PIL import Image

    assert Image.open(io.BytesIO(grey_bomb(700))).size == (700, 700)
