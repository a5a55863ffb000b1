"""Damaged and unusual files: each is one clear error, or is read as a player shows it; the same for paths and bytes."""

from __future__ import annotations

import os
import socket
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.factories.media import Clip, write_clip
from video_llama.errors import MediaError
from video_llama.processors.audio_decode import open_track, read_waveform
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.media_file import MediaFile
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.settings import ProcessorSettings

FAULTS = Path(__file__).resolve().parent.parent / "data" / "faults"
SETTINGS = ProcessorSettings()


def read(source: Path | bytes, **options: object) -> ReadMedium:
    given = MediaOptions(**options)  # type: ignore[arg-type]
    return read_medium(source, SETTINGS, given, max_frames=32, with_audio_branch=True)


@pytest.fixture(params=["path", "bytes"])
def source_of(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    return lambda path: path if request.param == "path" else path.read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_codec.mp4", "no decoder for"),
        ("unk.mp4", "no decoder for codec zzzz"),
        ("permission.ogv", "cannot be read as video or sound"),
        ("bad_exif.jpg", "cannot be read as an image"),
        ("cut.gif", "cannot be read as an image"),
        ("bomb.gif", "more than 178,956,970 pixels"),
        ("tall.png", r"1 x 50000000 pixels\. The limits are 32,768 pixels per side"),
        ("huge1e20.wav", r"sound samples reach 1e\+20, and full scale is 1"),
        ("rate2g.wav", r"sampling rate of 2147483647 Hz\. Rates from 1000 to 768000 Hz"),
        ("list.mp4", "not a video, image or sound in a supported format"),
    ],
)
def test_one_error_that_names_the_file(source_of, name: str, message: str) -> None:  # type: ignore[no-untyped-def]
    source = source_of(FAULTS / name)
    with pytest.raises(MediaError, match=message) as caught:
        read(source)
    assert (name if isinstance(source, Path) else "<bytes>") in str(caught.value)
    assert "object at 0x" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.txt", "x.svg"])
def test_text_is_not_a_video(source_of, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MediaError, match=r"supported format|cannot be read"):
        read(source_of(FAULTS / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.m3u8", "#EXTM3U\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile {other}\n"),
        ("a.mp4", "ffconcat version 1.0\nfile {other}\n"),
        ("a.mpd", '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation>'
         "<BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>"),
    ],
)  # fmt: skip
def test_playlists_read_no_other_file(tmp_path: Path, name: str, content: str) -> None:
    write_clip(tmp_path / "other.ts", Clip(suffix="ts", num_frames=10))
    (tmp_path / name).write_text(content.format(other="other.ts"))
    with pytest.raises(MediaError):
        read(tmp_path / name)


def test_an_image_pattern_is_not_expanded(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "frame1.png")
    (tmp_path / "frame%d.png").write_text("text")
    with pytest.raises(MediaError):
        read(tmp_path / "frame%d.png")


def test_pipes_sockets_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.mp4"))
        for path in (tmp_path / "pipe.mp4", tmp_path / "socket.mp4", Path("/dev/zero")):
            with pytest.raises(MediaError, match="is not a regular file"):
                read(path)


def test_an_animated_webp_is_a_video(source_of) -> None:  # type: ignore[no-untyped-def]
    medium = read(source_of(FAULTS / "anim.webp"))
    assert medium.kind == "video"
    assert medium.frames is not None
    with Image.open(FAULTS / "anim.webp") as image:
        assert medium.frames.total_frames == image.n_frames  # type: ignore[attr-defined]


def test_64_bit_samples(source_of) -> None:  # type: ignore[no-untyped-def]
    medium = read(source_of(FAULTS / "pcm_s64le.wav"))
    assert medium.sound is not None
    assert 0.01 < np.abs(medium.sound.samples).max() <= 1.01


def test_float_pixels_are_scaled(source_of) -> None:  # type: ignore[no-untyped-def]
    medium = read(source_of(FAULTS / "f32.tif"))
    with Image.open(FAULTS / "f32.tif") as image:
        mean = float(np.asarray(image).mean())
    assert medium.frames is not None
    assert abs(float(medium.frames.frames.mean()) - 255 * mean) < 1


@pytest.mark.parametrize("name", ["xvid.avi", "zero.nut"])
def test_frames_follow_the_display_order(source_of, name: str) -> None:  # type: ignore[no-untyped-def]
    """Packed B-frames and empty packets: the frames equal those of a decode in order."""
    sampling = FrameSampling(num_frames=32)
    medium = read(source_of(FAULTS / name), frames=sampling)
    with av.open(str(FAULTS / name)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = [frame for packet in packets for frame in stream.codec_context.decode(packet)]
        shown += stream.codec_context.decode(None)
    expected = [frame.to_ndarray(format="rgb24").mean(axis=(0, 1)) for frame in shown]
    assert medium.frames is not None
    assert medium.frames.total_frames == len(shown)
    for index, frame in zip(medium.frames.indices, medium.frames.frames, strict=True):
        assert np.abs(frame.mean(axis=(1, 2)) - expected[index]).max() < 3


@pytest.mark.parametrize(("suffix", "codec"), [("ts", "libx264"), ("vob", "mpeg2video")])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_joined_recordings_are_read_in_order(tmp_path: Path, suffix: str, codec: str, order: tuple[int, int]) -> None:
    options = {"bf": "2", "g": "12"}
    parts = [
        write_clip(tmp_path / f"{count}.{suffix}", Clip(suffix=suffix, codec=codec, num_frames=count, options=options))
        for count in (30, 50)
    ]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(parts[number].read_bytes() for number in order))
    medium = read(joined, frames=FrameSampling(num_frames=32), no_audio=True)
    alone = [read(parts[number], frames=FrameSampling(num_frames=32), no_audio=True) for number in order]
    assert medium.frames is not None
    assert medium.frames.total_frames == 80
    assert np.allclose(medium.frames.seconds, [index / 25 for index in medium.frames.indices])
    first = len([index for index in medium.frames.indices if index < (30, 50)[order[0]]])
    assert alone[0].frames is not None
    assert alone[1].frames is not None
    same = [index for index in medium.frames.indices[:first] if index in alone[0].frames.indices]
    assert same, "some frames are sampled from the part and from the whole"
    for index in same:
        whole = medium.frames.frames[medium.frames.indices.index(index)]
        assert np.array_equal(whole, alone[0].frames.frames[alone[0].frames.indices.index(index)])


def test_sound_of_the_programme_of_the_picture(source_of) -> None:  # type: ignore[no-untyped-def]
    source = source_of(FAULTS / "mpts.ts")
    with MediaFile(source) as media, media.container() as container:
        related = container.streams.best("audio", related=container.streams.best("video"))
        assert related is not None
        expected = related.codec_context.sample_rate
    assert open_track(source).rate == expected


def loudness(medium: ReadMedium) -> list[float]:
    assert medium.sound is not None
    return [float(np.abs(clip).mean()) for clip in medium.sound.samples]


def test_a_gap_in_the_sound_is_silent(source_of) -> None:  # type: ignore[no-untyped-def]
    """The file has sound from 0 to 2 s and from 5 to 8 s."""
    medium = read(source_of(FAULTS / "gap.mkv"))
    assert medium.sound is not None
    assert abs(medium.sound.duration - 8.0) < 0.1
    silent = read(source_of(FAULTS / "gap.mkv"), frames=FrameSampling(start=2.5, end=4.5))
    heard = read(source_of(FAULTS / "gap.mkv"), frames=FrameSampling(start=5.2, end=7.2))
    assert max(loudness(silent)) < 1e-4
    assert min(loudness(heard)) > 1e-2


def test_no_mel_is_nan() -> None:
    samples = np.random.default_rng(0).uniform(-1e6, 1e6, (1, 16000)).astype(np.float32)
    assert np.isfinite(AudioProcessor()(samples, 16000).mel).all()
    with pytest.raises(MediaError, match="full scale is 1"):
        AudioProcessor()(samples * 10, 16000)


def write_av(path: Path, *, sound_from: float, seconds: float = 8.0) -> Path:
    """A video of ``seconds`` whose sound, a tone that grows louder every second, starts at ``sound_from``."""
    rate = 16000
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=rate, layout="mono")
        for number in range(int(seconds * 10)):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 3, np.uint8), format="rgb24")
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for second in range(int(seconds - sound_from)):
            wave = 3000 * (second + 1) * np.sin(np.arange(rate) * 0.2)
            frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), int((sound_from + second) * rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_sound_that_starts_late_keeps_the_clock_of_the_picture(tmp_path: Path, suffix: str) -> None:
    """Seconds 4 to 5 of the picture go with the third second of a sound that starts 2 s late."""
    path = write_av(tmp_path / f"late.{suffix}", sound_from=2.0)
    medium = read(path, frames=FrameSampling(num_frames=4, start=4.0, end=5.0))
    assert medium.frames is not None
    assert medium.sound is not None
    assert 4.0 <= medium.frames.seconds[0] < 5.0
    assert medium.sound.start_seconds[0] == pytest.approx(4.0, abs=0.05)
    expected = 3000 * 3 / 32768 * 2 / np.pi  # mean of a sine's magnitude
    assert loudness(medium)[0] == pytest.approx(expected, rel=0.1)
    before = read(path, frames=FrameSampling(num_frames=4, start=0.0, end=1.5))
    assert max(loudness(before)) < 1e-3


def test_a_whole_video_reports_late_sound_at_its_own_time(tmp_path: Path) -> None:
    medium = read(write_av(tmp_path / "late.mkv", sound_from=2.0))
    assert medium.sound is not None
    assert medium.sound.start_seconds[0] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("aac", "aac")])
def test_parts_of_other_sampling_rates_are_resampled(tmp_path: Path, suffix: str, codec: str) -> None:
    """Joined files: a second of 440 Hz at 16 kHz, then a second of 440 Hz at 48 kHz."""
    parts = []
    for rate in (16000, 48000):
        path = tmp_path / f"{rate}.{suffix}"
        with av.open(str(path), "w", format="adts" if suffix == "aac" else suffix) as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            wave = (9000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.int16)
            for block in np.split(wave[: rate // 1024 * 1024], rate // 1024):
                frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
                frame.sample_rate = rate
                resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
                for converted in resampler.resample(frame):
                    converted.pts = None
                    container.mux(stream.encode(converted))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(parts))
    samples, rate = read_waveform(joined)
    assert rate == 16000
    assert samples.shape[1] / rate == pytest.approx(2.0, abs=0.2)
    for start in (0.3, 1.4):  # the same tone in both parts
        part = samples[0, int(start * rate) : int((start + 0.4) * rate)]
        frequencies = np.fft.rfftfreq(len(part), 1 / rate)
        assert frequencies[np.abs(np.fft.rfft(part)).argmax()] == pytest.approx(440, abs=5)


def test_a_clock_that_jumps_forward_in_a_transport_stream(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "jump.ts", Clip(suffix="ts", num_frames=40, pts=lambda k: k * 40 + (1_000_000 if k >= 20 else 0))
    )
    medium = read(path, frames=FrameSampling(num_frames=20), no_audio=True)
    assert medium.frames is not None
    assert medium.frames.duration == pytest.approx(1.6, abs=0.1)
    assert medium.frames.seconds == sorted(medium.frames.seconds)
    assert read(path, frames=FrameSampling(num_frames=4, start=1.0), no_audio=True).frames is not None


def test_palette_video_is_not_black_after_a_seek(tmp_path: Path) -> None:
    path = tmp_path / "palette.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "pal8"
        graph = av.filter.Graph()
        source = graph.add_buffer(width=32, height=32, format="rgb24", time_base=Fraction(1, 10))
        nodes = [source, graph.add("split"), graph.add("palettegen", "stats_mode=full")]
        del nodes
        for number in range(30):
            indices = np.full((32, 32), number + 100, np.uint8)
            frame = av.VideoFrame(32, 32, "pal8")
            frame.planes[0].update(indices.tobytes())
            palette = np.stack([np.arange(256, dtype=np.uint8)] * 3 + [np.full(256, 255, np.uint8)], axis=1)
            frame.planes[1].update(palette.tobytes())
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    late = read(path, frames=FrameSampling(num_frames=2, start=2.0), no_audio=True)
    assert late.frames is not None
    assert late.frames.frames.mean() > 100


@pytest.mark.parametrize(("suffix", "extra"), [("avif", None), ("heic", "pillow_heif")])
def test_phone_pictures_are_whole_images(tmp_path: Path, suffix: str, extra: str | None) -> None:
    if extra is not None:
        pytest.importorskip(extra).register_heif_opener()
    picture = np.zeros((600, 900, 3), np.uint8)
    picture[300:, 450:] = 255
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(picture).save(path)
    medium = read(path)
    assert medium.kind == "image"
    assert medium.frames is not None
    quarters = medium.frames.frames[0].reshape(3, 2, 112, 2, 112).mean(axis=(0, 2, 4))
    assert (quarters > 128).tolist() == [[False, False], [False, True]]


def test_heic_without_its_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "picture.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(MediaError, match=r"requires the extra heic: pip install 'video-llama\[heic\]'"):
        read(path)


def test_animations_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("video_llama.processors.images.MAX_ANIMATION_PIXELS", 32 * 32 * 10)
    frames = [Image.new("RGB", (32, 32), (number * 20, 0, 0)) for number in range(11)]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        with pytest.raises(MediaError, match="animation of 11 frames of 32 x 32 pixels"):
            read(path)


def test_memory_at_a_rate_without_a_common_divisor() -> None:
    """767,999 Hz and 16 kHz have 16,000 kernels of 583 taps."""
    tracemalloc.start()
    try:
        samples = np.zeros((1, 767_999), np.float32)
        assert AudioProcessor()(samples, 767_999).sampling_rate == 16000
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()
