"""The HTML of the model input: every frame with its time, every clip, the attention; file names are escaped."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_llama.apps.demo.pictures import EMPTY, media_html
from video_llama.apps.demo.visitors import ShownMedium
from video_llama.chat import QueryAttention


def shown_medium(talkative, path: Path) -> ShownMedium:
    read = talkative.read(path)
    return ShownMedium(path, read, talkative.mel_clips(read))


@pytest.fixture
def shown(talkative, media) -> ShownMedium:
    return shown_medium(talkative, media["first"])


def pictures(html: str) -> list[np.ndarray]:
    data = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(part)))) for part in data]


def test_without_media():
    assert EMPTY in media_html([])


def test_every_frame_and_clip_is_shown(shown):
    html = media_html([shown])
    frames, sound = shown.read.frames, shown.read.sound
    seen = pictures(html)
    assert len(seen) == len(frames.seconds) + len(sound.start_seconds)
    for frame, picture in zip(frames.frames, seen, strict=False):
        # JPEG of noise loses much; a wrong frame would differ by about 85.
        assert np.abs(frame.transpose(1, 2, 0).astype(float) - picture).mean() < 45
    assert seen[-1].shape == (*shown.mel.shape[2:], 3)
    assert re.findall(r'class="vl-time">([^<]+)<', html) == [
        *(f"{second:.1f} s" for second in frames.seconds),
        *(f"{start:.1f}–{start + 2:.1f} s" for start in sound.start_seconds),
    ]


def test_low_frequencies_are_at_the_bottom(shown):
    """The file's tone is 127 Hz: the brightest row of its spectrogram is among the lowest."""
    clip = pictures(media_html([shown]))[-1].astype(int).sum(axis=(1, 2))
    assert clip.argmax() > len(clip) * 0.8


def test_attention_is_shown_as_percentage_and_heat_map(shown):
    shares = np.zeros((5, len(shown.read.frames.seconds)), dtype=np.float32)
    shares[:, 1] = 1
    shown.attention = QueryAttention(shares, None)
    html = media_html([shown])
    assert re.findall(r"<span>(\d+%)</span>", html) == ["0%", "100%", "0%", "0%"]
    dark, bright = pictures(html)[1].mean(), pictures(html)[3].mean()
    assert bright > dark + 100
    assert "from the video Q-Former queries" in html


def test_reasons_for_missing_frames_and_audio(talkative, media):
    silent = shown_medium(talkative, media["silent"])
    assert "No audio: no audio track." in media_html([silent])
    tone = shown_medium(talkative, media["tone"])
    assert "No frames: no video track." in media_html([tone])


def test_file_names_are_escaped(shown):
    shown.path = Path("<script>alert(1)</script>.mp4")
    assert "<script" not in media_html([shown])


def test_no_external_files(shown):
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*', media_html([shown])) == []
