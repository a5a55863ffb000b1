"""Sound of every kind becomes log-mel clips; no track, an unusable track and sound are three things."""

from __future__ import annotations

import json
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.conformance_audio import rows
from tests.factories.clips import Clip, add_stream, encoded, sound_packets, tone, write_sound
from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors.audio_decode import SoundTrack, open_track, read_waveform
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.fbank import SMALLEST_POWER, log_mel_filter_bank
from video_llama.processors.resample import Resampler, resample
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import clip_starts, cut_clips, sample_range

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


# Files --------------------------------------------------------------------------------------------------------------


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


# No track, an unusable track ----------------------------------------------------------------------------------------


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


# Long tracks --------------------------------------------------------------------------------------------------------


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


# Clips --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [400, 401, 16000, 31999, 32000])
def test_a_short_track_gives_equal_clips(num_samples: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (1, num_samples)).astype(np.float32)
    clips = AudioProcessor()(sound, RATE)
    assert (clips.mel.shape, clips.mel.dtype) == ((8, 1, 128, 204), np.float32)
    assert clips.start_seconds == [0.0] * 8
    assert all(np.array_equal(clips.mel[0], other) for other in clips.mel)
    num_frames = 1 + (num_samples - 400) // 160
    padding = np.float32(4.268) / np.float32(9.138)  # zeros, put there before (x + 4.268) / 9.138
    assert np.abs(clips.mel[..., num_frames:] - padding).max(initial=0) < 1e-7
    assert clips.mel[..., :num_frames].std() > 0.1


@pytest.mark.parametrize("num_samples", [0, 1, 399])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_less_than_a_window_is_an_error(num_samples: int, num_channels: int) -> None:
    with pytest.raises(
        MediaError,
        match=rf"{num_samples} audio samples at 16000 Hz; at least 400 \(25 ms\) are required\. Give a longer sound\.$",
    ):
        AudioProcessor()(np.zeros((num_channels, num_samples), np.float32), RATE, "x.wav")


def test_the_window_is_counted_after_resampling() -> None:
    assert AudioProcessor()(np.zeros((1, 200), np.float32), 8000).mel.shape == (8, 1, 128, 204)
    with pytest.raises(MediaError, match="has 398 audio samples at 16000 Hz"):
        AudioProcessor()(np.zeros((1, 199), np.float32), 8000)


@given(st.integers(400, 40 * RATE), st.integers(1, 12))
def test_clips_start_where_pytorchvideo_starts_them(num_samples: int, num_clips: int) -> None:
    settings = ProcessorSettings(num_clips=num_clips)
    duration = num_samples / RATE
    starts = clip_starts(duration, settings)
    step = Fraction(max(duration - 2.0, 0)) / num_clips
    assert starts == [k * step for k in range(num_clips)]
    ranges = [sample_range(start, settings) for start in starts]
    assert all(last - first in (32000, 32001, 31999) for first, last in ranges)
    assert ranges[-1][1] <= max(num_samples, 32000)


def test_channel_0_is_heard_and_the_mean_is_of_all() -> None:
    left, right = tone(2.5, RATE, [440.0, 3000.0]).astype(np.float32)
    heard = AudioProcessor()(np.stack([left, right]), RATE).mel
    alone = AudioProcessor()(left[None], RATE).mel
    assert np.abs(heard - alone).max() < 1e-2  # the mean only shifts what each frame's own mean removes
    other = AudioProcessor()(np.stack([right, left]), RATE).mel
    assert np.abs(heard - other).max() > 0.5


def test_silence_is_the_floor() -> None:
    mel = AudioProcessor()(np.zeros((1, RATE * 3), np.float32), RATE).mel[..., :198]
    assert np.abs(mel - (np.log(SMALLEST_POWER) + 4.268) / 9.138).max() < 1e-6


def test_settings_and_shapes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"num_clips is 0\. It must be positive"):
        ProcessorSettings(num_clips=0)
    with pytest.raises(ValueError, match=r"shape \[16000\]\. Give \[channels, samples\]"):
        AudioProcessor()(np.zeros(RATE, np.float32), RATE)
    with pytest.raises(ValueError, match="Give 1 Hz or more"):
        AudioProcessor()(np.zeros((1, RATE), np.float32), 0)


# The filter bank and the resampler ------------------------------------------------------------------------------------


def test_many_clips_in_one_transform_equal_one_by_one() -> None:
    clips = np.random.default_rng(1).normal(0, 0.1, (5, 8000)).astype(np.float32)
    together = log_mel_filter_bank(clips, RATE, 128)
    assert together.shape == (5, 48, 128)
    for clip, mel in zip(clips, together, strict=True):
        assert np.abs(log_mel_filter_bank(clip[None], RATE, 128)[0] - mel).max() < 1e-4  # order of float32 sums


def test_a_tone_is_loudest_in_its_own_bin() -> None:
    def mel(hertz: float) -> float:
        return 1127 * float(np.log(1 + hertz / 700))

    width = (mel(RATE / 2) - mel(20)) / 129
    for hertz in (250.0, 1000.0, 4000.0):
        loudest = int(log_mel_filter_bank(tone(0.5, RATE, [hertz]), RATE, 128)[0].mean(axis=0).argmax())
        assert abs(loudest - ((mel(hertz) - mel(20)) / width - 1)) <= 1


@settings(max_examples=20)
@given(st.sampled_from([8000, 11025, 22050, 44100, 44101, 48000, 96000]), st.integers(1, 3000), st.integers(1, 3))
def test_resampling_equals_the_textbook_sum(rate: int, num_samples: int, num_channels: int) -> None:
    """Every output sample as one windowed-sinc sum over all inputs, in float64."""
    sound = np.random.default_rng(num_samples).normal(0, 0.3, (num_channels, num_samples)).astype(np.float32)
    resampled = resample(sound, rate, RATE)
    assert resampled.shape == (num_channels, -(-num_samples * RATE // rate))
    cutoff = min(rate, RATE) * 0.99
    places = np.linspace(0, resampled.shape[1] - 1, 7).astype(int)
    for place in places:
        crossings = np.clip((np.arange(num_samples) / rate - place / RATE) * cutoff, -6, 6)
        taps = np.sinc(crossings) * np.cos(crossings * np.pi / 12) ** 2 * (cutoff / rate)
        assert np.abs(resampled[:, place] - sound @ taps).max() < 2e-6  # float32 taps


@settings(max_examples=30)
@given(
    st.sampled_from([8000, 11025, RATE, 22050, 44100, 44101, 48000, 96000]),
    st.integers(1, 100_000),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_part_is_resampled_to_the_bits_of_the_whole(rate: int, num_samples: int, ends: tuple[float, float]) -> None:
    sound = np.random.default_rng(num_samples).normal(0, 0.3, (2, num_samples)).astype(np.float32)
    whole, resampler = resample(sound, rate, RATE), Resampler(rate, RATE)
    first, last = sorted(round(end * whole.shape[1]) for end in ends)
    part = SoundTrack.of(sound, rate, "a").cut([resampler.inputs_of(first, last)])[0]
    assert np.array_equal(resampler(part, first, last), whole[:, first:last])
    assert np.array_equal(resampler(np.asfortranarray(part), first, last), whole[:, first:last])


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_resampled_tone_keeps_its_place(rate: int) -> None:
    resampled = resample(tone(1.0, rate).astype(np.float32), rate, RATE)
    inner = slice(500, -500)
    assert np.abs(resampled[0, inner] - tone(1.0, RATE)[0, inner]).max() < 2e-3  # of 0.5: the filter's ripple


# golden -------------------------------------------------------------------------------------------------------------


def test_mels_equal_goldens(golden_audio: Path) -> None:
    """The stored waveforms of golden, without its media files."""
    synthetic = json.loads((golden_audio / "audio.json").read_text(encoding="utf-8"))["synthetic"]
    results = [row for row in rows(golden_audio, None) if row.case.split()[1].rstrip(":") in synthetic]
    assert len(results) >= 4 * len(synthetic)
    assert [row for row in results if not row.passed] == []
