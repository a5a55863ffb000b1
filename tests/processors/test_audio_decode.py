"""Sound tracks as they are decoded: every sample format, containers, damaged files, long tracks in parts."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories.media import Clip, add_stream, encoded, sound_packets, tone, write_sound
from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors.audio_decode import open_track, read_waveform
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.resample import resample
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import cut_clips

RATE = 16000


WAV = {  # codec, format, whole scale
    "u8": ("pcm_u8", "u8", 128),
    "s16": ("pcm_s16le", "s16", 2**15),
    "s24": ("pcm_s24le", "s32", 2**31),
    "s32": ("pcm_s32le", "s32", 2**31),
    "float": ("pcm_f32le", "flt", 1),
    "double": ("pcm_f64le", "dbl", 1),
}


TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64, "fltp": np.float32}


def numbers(waveform: np.ndarray, sample_format: str, scale: float) -> np.ndarray:
    """Write -1..1 in the numbers of a sample format."""
    offset = 128 if sample_format == "u8" else 0
    values = waveform * scale + offset
    return (values if scale == 1 else np.rint(values)).astype(TYPES[sample_format])


@pytest.mark.parametrize("kind", WAV)
@pytest.mark.parametrize(("layout", "num_channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_wav_of_every_width(tmp_path: Path, kind: str, layout: str, num_channels: int) -> None:
    codec, sample_format, scale = WAV[kind]
    sound = tone(0.3, 44100, [300.0 + 100 * k for k in range(num_channels)])
    path = write_sound(tmp_path / "a.wav", numbers(sound, sample_format, scale), 44100, codec, sample_format, layout)
    waveform, rate = read_waveform(path)
    assert (waveform.dtype, waveform.shape, rate) == (np.float32, sound.shape, 44100)
    step = {"u8": 1 / 128, "s16": 2**-15, "s24": 2**-23}.get(kind, 1e-7)
    assert np.abs(waveform - sound).max() <= step  # no more than one step of the file's numbers


@pytest.mark.parametrize(
    ("suffix", "codec", "sample_format", "scale", "rate"),
    [
        ("mp3", "libmp3lame", "fltp", 1, 44100),
        ("flac", "flac", "s16", 2**15, 48000),
        ("flac", "flac", "s32", 2**31, 48000),
        ("m4a", "aac", "fltp", 1, 44100),
        ("ogg", "libopus", "flt", 1, 48000),
        ("wav", "pcm_s16le", "s16", 2**15, 8000),
    ],
)
def test_compressed_sound_is_heard(
    tmp_path: Path, suffix: str, codec: str, sample_format: str, scale: float, rate: int
) -> None:
    sound = tone(3.0, rate)
    path = write_sound(tmp_path / f"a.{suffix}", numbers(sound, sample_format, scale), rate, codec, sample_format)
    waveform, native = read_waveform(path)
    assert native == rate
    assert abs(waveform.shape[1] - sound.shape[1]) <= 0.1 * rate  # encoders pad whole blocks
    clips = AudioProcessor().read(path)
    direct = AudioProcessor()(sound.astype(np.float32), rate)
    loudest = clips.mel[:, 0, :, 20:150].mean(axis=2).argmax(axis=1)
    assert loudest.tolist() == direct.mel[:, 0, :, 20:150].mean(axis=2).argmax(axis=1).tolist()


def write_film(path: Path, sounds: list[np.ndarray], codec: str = "aac") -> Path:
    """A short video with these sound tracks."""
    film = Clip(num_frames=25)
    with av.open(str(path), "w") as container:
        video = add_stream(container, film)
        tracks = [container.add_stream(codec, rate=RATE, layout="mono") for _ in sounds]
        for packet in encoded(video, film):
            container.mux(packet)
        for track, sound in zip(tracks, sounds, strict=True):
            for packet in sound_packets(track, sound.astype(np.float32), RATE, "fltp", "mono"):
                container.mux(packet)
    return path


def test_the_track_of_a_video(tmp_path: Path) -> None:
    waveform, rate = read_waveform(write_film(tmp_path / "film.mp4", [tone(1.0, RATE)]))
    assert (rate, waveform.shape[0]) == (RATE, 1)
    assert abs(waveform.shape[1] - RATE) <= 2048  # two AAC blocks
    assert np.abs(waveform[0, 2000:14000] - tone(1.0, RATE)[0, 2000:14000]).max() < 0.05


def test_the_first_of_two_equal_tracks(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mkv", [tone(1.0, RATE, [440.0]), tone(1.0, RATE, [3000.0])])
    loudest = AudioProcessor().read(path).mel[0, 0, :, 20:60].mean(axis=1).argmax()
    expected = AudioProcessor()(tone(1.0, RATE, [440.0]), RATE).mel[0, 0, :, 20:60].mean(axis=1).argmax()
    assert loudest == expected


def test_bytes_are_read_as_a_path_is(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "ein Ton – 音.wav", numbers(tone(0.2, RATE), "s16", 2**15), RATE, "pcm_s16le", "s16")
    assert np.array_equal(read_waveform(path.read_bytes())[0], read_waveform(path)[0])


def test_no_track_has_its_own_kind(plain_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(NoAudioTrackError, match=r"has no audio stream\. Ask without audio \(--no-audio\) or give"):
        read_waveform(plain_clip)


def test_a_track_of_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", [tone(1.0, RATE)])
    data = path.read_bytes()
    assert (data.count(b"mp4a"), data.count(b"esds")) == (1, 1)
    path.write_bytes(data.replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    with pytest.raises(MediaError, match=r"cannot be decoded\. Convert it|without samples") as caught:
        read_waveform(path)
    assert not isinstance(caught.value, NoAudioTrackError)


def test_a_track_of_noise_bytes_is_an_error(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4", [tone(1.0, RATE)])
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size and packet.pos is not None:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"\(aac\) without samples.*, or ask without audio \(--no-audio\)") as caught:
        read_waveform(path)
    assert not isinstance(caught.value, NoAudioTrackError)


def test_a_file_that_ends_in_the_middle_gives_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_sound(tmp_path / "a.flac", numbers(tone(3.0, RATE), "s16", 2**15), RATE, "flac", "s16")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    waveform, _ = read_waveform(path)
    assert RATE // 2 < waveform.shape[1] < 2 * RATE
    assert np.abs(waveform - tone(3.0, RATE)[:, : waveform.shape[1]]).max() <= 2**-15
    assert "damaged packets of the sound track" in caplog.text


def test_files_that_are_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(MediaError, match="does not exist"):
        read_waveform(path)
    path.touch()
    with pytest.raises(MediaError, match="is empty"):
        read_waveform(path)
    path.write_text("no sound at all\n" * 20)
    with pytest.raises(MediaError, match=r"a\.wav cannot be read as video or sound"):
        read_waveform(path)
    with pytest.raises(MediaError, match="is a folder"):
        read_waveform(tmp_path)


def test_a_wav_without_a_sample(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", np.zeros((1, 0), np.int16), RATE, "pcm_s16le", "s16")
    with pytest.raises(
        MediaError, match=r"without samples: it is empty or damaged\. Give a file with sound\.$|cannot be read"
    ):
        read_waveform(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    sound = tone(0.5, RATE).astype(np.float32)
    sound[0, 100:103] = bad
    path = write_sound(tmp_path / "a.wav", sound, RATE, "pcm_f32le", "flt")
    with pytest.raises(MediaError, match=r"a\.wav: 3 of 8000 sound samples are not finite numbers"):
        read_waveform(path)
    with pytest.raises(MediaError, match="3 of 8000 sound samples are not finite"):
        AudioProcessor()(sound, RATE)


def test_an_mp3_with_a_cover_is_sound_only(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    from video_llama.processors.video_processor import read_video

    path = write_sound(tmp_path / "a.mp3", tone(1.0, 44100).astype(np.float32), 44100, "libmp3lame", "fltp")
    cover = BytesIO()
    Image.new("RGB", (50, 50)).save(cover, "JPEG")
    picture = b"\0image/jpeg\0\x03\0" + cover.getvalue()
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    music = path.read_bytes()
    old = 10 + sum(byte << shift for byte, shift in zip(music[6:10], (21, 14, 7, 0), strict=True))
    path.write_bytes(b"ID3\x03\0\0" + size + frame + (music[old:] if music[:3] == b"ID3" else music))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1, "the file was not made as meant"
    assert read_waveform(path)[1] == 44100
    with pytest.raises(MediaError, match=r"no video stream\. It has only sound: give it as audio"):
        read_video(path)


@settings(max_examples=8)
@given(
    st.sampled_from([8000, RATE, 22050, 44100, 44101, 48000]),
    st.integers(5_000, 60_000),
    st.integers(1, 2),
    st.integers(0, 30_000),
)
def test_a_track_that_is_decoded_twice_sounds_as_a_held_one(
    tmp_path_factory: pytest.TempPathFactory, rate: int, num_samples: int, num_channels: int, start: int
) -> None:
    sound = np.random.default_rng(num_samples).integers(-9000, 9000, (num_channels, num_samples), dtype=np.int16)
    path = tmp_path_factory.mktemp("long") / "a.wav"
    write_sound(path, sound, rate, "pcm_s16le", "s16", ["mono", "stereo"][num_channels - 1])
    first = min(start, num_samples - 4 * rate // 100)  # 40 ms are left at least
    held, decoded = (open_track(path, held_bytes).span(first, num_samples, "a") for held_bytes in (10**9, 0))
    assert held.samples is not None
    assert decoded.samples is None
    processor = AudioProcessor(ProcessorSettings(clip_seconds=0.125))
    whole = processor(resample(held.samples[:, first:], rate, RATE), RATE, "a")
    for clips in (cut_clips(held, processor.settings), cut_clips(decoded, processor.settings)):
        heard = processor.process(clips)
        assert np.array_equal(heard.mel, whole.mel)
        assert (heard.start_seconds, heard.duration) == (whole.start_seconds, whole.duration)


def test_a_long_track_is_never_whole_in_memory(tmp_path: Path) -> None:
    sound = numbers(tone(100.0, RATE), "s16", 2**15)
    path = write_sound(tmp_path / "a.wav", sound, RATE, "pcm_s16le", "s16")
    tracemalloc.start()
    track = open_track(path, held_bytes=2**20)
    (part,) = track.cut([(-10, RATE)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (track.num_samples, part.shape) == (100 * RATE, (1, RATE + 10))
    assert np.array_equal(part[0, 10:], sound[0, :RATE].astype(np.float32) / 2**15)
    assert peak < sound.size * 4 / 2, "of 6.4 MB as float32"


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", numbers(tone(2.0, RATE), "s16", 2**15), RATE, "pcm_s16le", "s16")
    track = open_track(path, held_bytes=0)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(
        MediaError, match=r"a\.wav changed while it was read: its sound ends at sample \d+\. Read it again"
    ):
        track.cut([(0, 2 * RATE)])
