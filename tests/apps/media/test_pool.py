"""Media are decoded elsewhere, to the same numbers; a file that breaks the decoder breaks one process, one reading."""

import asyncio
import io

import numpy as np
import pytest

from tests.factories.media import grey_bomb
from video_llama.apps.media.limits import MEBIBYTE, MediaLimits
from video_llama.apps.media.pool import MediaPool
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaOptions
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import read_video
from video_llama.processors.windows import Window, WindowPlan


def read(assistant, *requests, **settings):
    """What a pool makes of (data, kind, options) requests, one after another: media or errors; and how many died."""
    deaths = []

    async def work():
        pool = MediaPool(assistant.engine, MediaLimits(media_workers=1, **settings), lambda: deaths.append(1))
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
        for part, array in (("frames", "frames"), ("sound", "samples")):
            ours, theirs = getattr(here, part), getattr(there, part)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                same, other = vars(ours), vars(theirs)
                np.testing.assert_array_equal(same[array], other[array])
                rest = same.keys() - {array, "source"}
                assert {key: same[key] for key in rest} == {key: other[key] for key in rest}
    assert deaths == 0


def test_bomb_ends_its_process_and_the_next_file_is_read(assistant, clips):
    data = (grey_bomb(7000), clips["video"].read_bytes())
    asked = [(part, None, MediaOptions()) for part in data]
    (bomb, video), deaths = read(assistant, *asked, media_worker_bytes=512 * MEBIBYTE)
    assert "requires more memory than allowed" in str(bomb)
    assert video.sound is not None
    assert deaths == 1


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        ({"max_media_pixels": 1000}, "image", r"a file is 60 x 40 pixels; the limit is 1,000 pixels\. Use a smaller"),
        ({"max_media_pixels": 1000}, "video", r"a file is 64 x 48 pixels"),
        ({"max_media_seconds": 2.5}, "video", r"a file lasts 3\.\d s; the limit is 2\.5 s\. Use a shorter file"),
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
    assert "99 frames are requested, but the limit is 8" in str(error)
    assert deaths == 0


def test_tells_a_slow_start_from_a_slow_file(assistant, clips, monkeypatch):
    monkeypatch.setattr("video_llama.apps.media.pool.START_SECONDS", 0.01)
    [error], deaths = read(assistant, (clips["image"].read_bytes(), "image", MediaOptions()))
    assert str(error).startswith("a file was not read: the decoding process took longer than 0.01 s to start")
    assert deaths == 1
    monkeypatch.undo()
    [error], deaths = read(assistant, (clips["video"].read_bytes(), "video", MediaOptions()), media_worker_seconds=1e-3)
    assert str(error).startswith("a file took longer than 0.001 s to decode")
    assert deaths == 1


def test_process_knows_no_secret(assistant, clips, monkeypatch):
    monkeypatch.setenv("VIDEO_LLAMA_API_KEY", "s3cret")

    async def environment() -> bytes:
        pool = MediaPool(assistant.engine, MediaLimits())
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
    with pytest.raises(MediaError, match="is not a video, image or sound in a supported format"):
        read_video(playlist.encode())


def test_bomb_is_small():
    assert len(grey_bomb(7000)) < MEBIBYTE
    from PIL import Image

    assert Image.open(io.BytesIO(grey_bomb(700))).size == (700, 700)


def test_windows_equal_those_read_here(assistant, clips):
    data, options = clips["video"].read_bytes(), MediaOptions(FrameSampling(2))

    async def work():
        pool = MediaPool(assistant.engine, MediaLimits(media_workers=1))
        try:
            duration, windows = await pool.plan_windows(data, "a file", None, options, WindowPlan(1, 0.5))
            media = await pool.read_windows(data, "a file", None, options, windows)
            with pytest.raises(MediaError, match="a file is an image, and windows divide"):
                await pool.plan_windows(clips["image"].read_bytes(), "a file", None, options, WindowPlan(1))
            with pytest.raises(MediaError, match="start is 7 s, but the video lasts"):
                await pool.read_windows(data, "a file", None, options, [Window(0, 1), Window(7, 8)])
            again = await pool.read(data, "a file", None, options)
            return duration, windows, media, again, len(pool.pids)
        finally:
            await pool.close()

    duration, windows, media, again, num_processes = asyncio.run(work())
    assert (round(duration, 6), windows) == (3.0, WindowPlan(1, 0.5).windows(0, 3.0))
    for window, medium in zip(windows, media, strict=True):
        segment = MediaOptions(FrameSampling(2, start=window.start, end=window.end))
        here = assistant.engine.read(clips["video"], segment)
        assert medium.frames.indices == here.frames.indices
        np.testing.assert_array_equal(medium.frames.frames, here.frames.frames)
        np.testing.assert_array_equal(medium.sound.samples, here.sound.samples)
    assert again.frames is not None
    assert num_processes == 1


def test_windows_of_a_medium_that_is_too_long(assistant, clips):
    async def work():
        pool = MediaPool(assistant.engine, MediaLimits(max_media_seconds=2))
        try:
            await pool.plan_windows(clips["video"].read_bytes(), "a file", None, MediaOptions(), WindowPlan(1))
        finally:
            await pool.close()

    with pytest.raises(MediaError, match=r"a file lasts 3\.0 s; the limit is 2 s"):
        asyncio.run(work())
