"""Spans of a long track read by seeking: equal to decoding the whole track, and the fallback where seeking fails."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from video_llama.errors import MediaError
from video_llama.processors.audio_decode import open_track
from video_llama.processors.media_file import MediaFile
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import CLIPS_ONLY, WHOLE_TRACK, cut_clips
from video_llama.processors.sound_index import MIN_SECONDS, sound_index

RATE = 16000
SECONDS = 70


def write(path: Path, codec: str, seconds: float = SECONDS, first: int = 0) -> Path:
    """Write a stereo sweep with noise, whose timestamps start at ``first``."""
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    noise = np.random.default_rng(0).standard_normal(count)
    left = 0.3 * np.sin(2 * np.pi * (100 + 20 * time) * time) + 0.01 * noise
    samples = (np.stack([left, 0.5 * left], axis=1) * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        for start in range(0, count, RATE):
            block = samples[start : start + RATE].reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout="stereo")
            frame.sample_rate, frame.pts = RATE, first + start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.wav", "pcm_s16le"), ("a.flac", "flac")])
def test_spans_equal_those_of_the_whole_track(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, codec)
    sought, whole = open_track(path), open_track(path, seeks=False)
    assert sought.index is not None
    assert (sought.num_samples, sought.rate, sought.num_channels) == (whole.num_samples, RATE, 2)
    assert sought.delay == whole.delay
    end = whole.num_samples
    spans = [(-100, 50), (0, RATE), (30 * RATE + 7, 32 * RATE), (5, 5), (end - RATE, end), (end - 10, end + 10)]
    for found, expected in zip(sought.cut(spans), whole.cut(spans), strict=True):
        assert np.array_equal(found, expected)


def test_clips_and_segments(tmp_path: Path) -> None:
    path, settings = write(tmp_path / "a.m4a", "aac"), ProcessorSettings()
    sought, whole = (cut_clips(open_track(path, seeks=seeks), settings) for seeks in (True, False))
    assert np.array_equal(sought.samples, whole.samples)
    assert (sought.start_seconds, sought.duration) == (whole.start_seconds, whole.duration)
    assert (sought.decoded, whole.decoded) == (CLIPS_ONLY, WHOLE_TRACK)
    parts = [open_track(path, seeks=seeks).span(20 * RATE, 41 * RATE, "part") for seeks in (True, False)]
    assert np.array_equal(*(cut_clips(part, settings).samples for part in parts))


@pytest.mark.parametrize(
    ("name", "codec", "seconds"),
    [("short.wav", "pcm_s16le", MIN_SECONDS - 1), ("a.mp3", "mp3", SECONDS), ("a.mkv", "aac", SECONDS)],
)
def test_other_tracks_are_decoded_whole(tmp_path: Path, name: str, codec: str, seconds: float) -> None:
    """Timestamps of Matroska are rounded to milliseconds, and those of MP3 are estimated after a seek."""
    with MediaFile(write(tmp_path / name, codec, seconds)) as media:
        assert sound_index(media) is None


def test_a_late_first_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mp4", "aac", first=3 * RATE)
    sought, whole = open_track(path), open_track(path, seeks=False)
    spans = [(0, 100), (40 * RATE, 41 * RATE)]
    assert sought.num_samples == whole.num_samples
    for found, expected in zip(sought.cut(spans), whole.cut(spans), strict=True):
        assert np.array_equal(found, expected)


def test_a_gap_is_read_from_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The packets of ten seconds are missing: positions follow the timestamps, as without seeking."""
    whole = write(tmp_path / "whole.m4a", "aac")
    path = tmp_path / "gap.m4a"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None and not 20 * RATE <= packet.dts < 30 * RATE:
                packet.stream = stream
                target.mux(packet)
    track = open_track(path)
    (part,) = track.cut([(19 * RATE, 31 * RATE)])
    assert np.array_equal(part, open_track(path, seeks=False).cut([(19 * RATE, 31 * RATE)])[0])
    assert np.abs(part[:, 2 * RATE : 10 * RATE]).max() == 0


def test_damage_in_a_span(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A span that cannot be decoded by seeking is decoded from the start, with the warning about damage."""
    path = write(tmp_path / "a.flac", "flac")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(bytes(data))
    track = open_track(path)
    assert track.index is not None
    (part,) = track.cut([(30 * RATE, 40 * RATE)])
    assert part.shape == (2, 10 * RATE)
    assert "seeking in the sound track failed" in caplog.text


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", "pcm_s16le")
    track = open_track(path)
    path.write_bytes(path.read_bytes()[:400_000])
    with pytest.raises(MediaError, match="changed while it was read"):
        track.cut([(60 * RATE, 62 * RATE)])
