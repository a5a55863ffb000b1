"""Render the model input as HTML: sampled frames, mel spectrograms of the audio clips, attention of the query tokens.

Images are embedded as data URLs, so the HTML refers to no other files. File names are escaped.
"""

# T frames, S clips, Q queries

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from video_llama.apps.demo.visitors import ShownMedium
from video_llama.processors.sound_clips import SoundClips
from video_llama.processors.video_processor import SampledVideo

RAMP = np.array([[16, 18, 52], [62, 40, 120], [150, 50, 110], [226, 96, 62], [253, 200, 80], [255, 252, 200]])
"""Colour map from low to high, RGB; values in between are interpolated."""

TITLE = '<h2 class="vl-name">Model input</h2>'
EMPTY = '<p class="vl-quiet">Sampled frames and audio clips appear here.</p>'
LEGEND = (
    '<p class="vl-legend">The bar below each item shows the cross-attention that it receives from the {queries}: one '
    "row per query, brighter is higher. The percentage is the mean over all queries. The attention does not depend on "
    "the question.</p>"
)


def media_html(media: Sequence[ShownMedium]) -> str:
    """Return the HTML of all media of a conversation, in order."""
    parts = [_medium_html(number, medium) for number, medium in enumerate(media, start=1)] or [EMPTY]
    return "".join([TITLE, *parts, _legend(media)])


def _legend(media: Sequence[ShownMedium]) -> str:
    known = [medium.attention for medium in media if medium.attention is not None]
    kinds = []
    if any(attention.frames_QT is not None for attention in known):
        kinds.append("video")
    if any(attention.clips_QS is not None for attention in known):
        kinds.append("audio")
    return LEGEND.format(queries=f"{' and '.join(kinds)} Q-Former queries") if kinds else ""


def _medium_html(number: int, medium: ShownMedium) -> str:
    read, attention = medium.read, medium.attention
    parts = [f'<h3 class="vl-name">{number}. {escape(medium.path.name)}</h3>']
    if read.frames is not None:
        parts.append(_frames_html(read.frames, None if attention is None else attention.frames_QT))
    else:
        parts.append(f'<p class="vl-quiet">No frames: {escape(read.why_no_frames or "")}.</p>')
    if read.sound is not None and medium.mel is not None:
        parts.append(_sound_html(read.sound, medium.mel, None if attention is None else attention.clips_QS))
    elif read.kind != "image":
        parts.append(f'<p class="vl-quiet">No audio: {escape(read.why_no_sound or "")}.</p>')
    return f'<section class="vl-medium">{"".join(parts)}</section>'


def _frames_html(video: SampledVideo, shares_QT: np.ndarray | None) -> str:
    pictures = [_jpeg(frame.transpose(1, 2, 0)) for frame in video.frames]
    if video.kind == "image":
        return _strip("Image", pictures, [""], ["image"], shares_QT)
    times = [f"{second:.1f} s" for second in video.seconds]
    title = f"{len(pictures)} of {video.total_frames} frames ({video.duration:.1f} s)"
    return _strip(title, pictures, times, [f"frame at {time}" for time in times], shares_QT)


def _sound_html(sound: SoundClips, mel: np.ndarray, shares_QS: np.ndarray | None) -> str:
    low, high = float(mel.min()), float(mel.max())
    levels = (mel[:, 0, ::-1] - low) / max(high - low, 1e-6)
    times = [f"{start:.1f}–{start + sound.clip_seconds:.1f} s" for start in sound.start_seconds]
    title = f"Mel spectrograms of {len(times)} audio clips ({sound.duration:.1f} s)"
    names = [f"mel spectrogram of {time}" for time in times]
    return _strip(title, [_jpeg(_coloured(clip)) for clip in levels], times, names, shares_QS)


def _strip(
    title: str, pictures: Sequence[str], times: Sequence[str], names: Sequence[str], shares_QT: np.ndarray | None
) -> str:
    """Return a list of pictures, each with its time and, if available, its attention."""
    items = []
    for step, (picture, time, name) in enumerate(zip(pictures, times, names, strict=True)):
        heat = "" if shares_QT is None else _heat_html(shares_QT, step)
        items.append(f'<li><img src="{picture}" alt="{name}"><span class="vl-time">{time}</span>{heat}</li>')
    return f'<p class="vl-title">{title}</p><ol class="vl-strip" aria-label="{title}">{"".join(items)}</ol>'


def _heat_html(shares_QT: np.ndarray, step: int) -> str:
    """Return the attention of one frame or clip: a heat map scaled by the maximum of all, and the mean over queries."""
    column_Q = shares_QT[:, step] / max(float(shares_QT.max()), 1e-6)
    share = f"{shares_QT[:, step].mean():.0%}"
    picture = _png(_coloured(column_Q[:, None]))
    return f'<img class="vl-heat" src="{picture}" alt="{share} of the attention"><span>{share}</span>'


def _coloured(levels: np.ndarray) -> np.ndarray:
    """Map levels from 0 to 1 [H, W] to uint8 RGB [H, W, 3]."""
    places = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(levels, places, RAMP[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


def _jpeg(rgb: np.ndarray) -> str:
    return _data_url(rgb, "JPEG", quality=88)


def _png(rgb: np.ndarray) -> str:
    return _data_url(rgb, "PNG")


def _data_url(rgb: np.ndarray, kind: str, **options: int) -> str:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
