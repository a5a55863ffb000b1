"""Write frames and audio samples as mp4: H.264 (yuv420p) and AAC mono.

The same input gives the same file, with one rare exception: in a process that had done much other work, a few pixels of
its first clip differed by 2 of 255. The cause is not known.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from video_llama.files import new_file

VIDEO_OPTIONS = {"crf": "23", "preset": "veryfast", "threads": "1"}
AUDIO_OPTIONS = {"aac_coder": "fast", "cutoff": "7800"}  # Hz; the default of 4.5 kHz removes the hiss
AUDIO_BIT_RATE = 24_000  # bit/s; this is already most of the file size
BIT_EXACT = {"fflags": "+bitexact", "movflags": "+faststart"}


def write_mp4(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    frames_per_second: int,
    samples: NDArray[np.float32] | None = None,
    sampling_rate: int = 16_000,
) -> None:
    """Write a clip. An incomplete file is never left behind.

    Args:
        path: path of the file.
        frames: uint8 [T, H, W, 3], RGB, even H and W.
        frames_per_second: frame rate of the video stream.
        samples: float32 [num_samples] in [-1, 1], or None for a file without an audio stream.
        sampling_rate: sampling rate in Hz.
    """
    with new_file(path) as unfinished, av.open(str(unfinished), "w", format="mp4", options=BIT_EXACT) as container:
        video = container.add_stream("libx264", rate=frames_per_second, options=VIDEO_OPTIONS)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        if samples is not None:
            audio = container.add_stream("aac", rate=sampling_rate, layout="mono", options=AUDIO_OPTIONS)
            audio.bit_rate = AUDIO_BIT_RATE
            audio.codec_context.flags |= av.codec.context.Flags.bitexact
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if samples is not None:
            sound = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
            sound.sample_rate = sampling_rate
            sound.pts = 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
