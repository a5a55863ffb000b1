"""Sample the frames of a video, their times, and the prompt sentence that lists the times.

In: a video file, an image, a folder or list of frames, bytes or a file object. Out: ``SampledVideo`` with uint8 RGB
frames [T, 3, H, W]; ``VideoProcessor`` normalizes them for the encoder.
Source: the reference's ``load_video``, ``AlproVideoEvalProcessor`` and ``AlproVideoTrainProcessor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from video_llama.errors import MediaError
from video_llama.processors.images import check_animation, frame_paths, load_frames, load_image, open_animation
from video_llama.processors.media_file import FrameListSource, MediaFile, MediaSource, Source, is_folder, open_media
from video_llama.processors.sampling import FrameSampling, check_frame_limit, choose_indices, frame_indices
from video_llama.processors.settings import IMAGE_MEAN, IMAGE_STD, ProcessorSettings
from video_llama.processors.video_decode import OrderedRead, Pictures, Scaler, decode_by_seeking, decode_in_order
from video_llama.processors.video_index import FrameIndex, build_index, index_of_shown, video_stream

__all__ = ["FrameSampling", "SampledVideo", "VideoProcessor", "frame_indices", "read_image", "read_video"]

DEFAULT_SIZE = (224, 224)
DEFAULT_MAX_FRAMES = 32
FOLDER_FPS = 1.0  # image files carry no times: one per second, unless the caller gives a rate


@dataclass(frozen=True)
class SampledVideo:
    """Sampled frames: ``frames`` uint8 RGB [T, 3, H, W], and their ``indices`` in the video.

    ``seconds`` are presentation times since the first frame, ``fps`` is the container's average rate, and ``duration``
    is in seconds.
    """

    frames: np.ndarray
    indices: list[int]
    seconds: list[float]
    fps: float
    total_frames: int
    duration: float
    source: str
    kind: Literal["video", "image", "frames"]

    @property
    def message(self) -> str:
        """The reference's sentence about the frames; empty for an image.

        Its times are index / average rate, as in the reference, even if the frame rate varies.
        """
        return "" if self.kind == "image" else frames_message(self.indices, self.fps)


def frames_message(indices: Sequence[int], fps: float) -> str:
    """Return "The video contains N frames sampled at ... seconds. ", times to one decimal."""
    return frames_sentence([index / fps for index in indices])


def frames_sentence(seconds: Sequence[float]) -> str:
    """Return the reference's sentence about the times of the frames, to one decimal."""
    times = ", ".join(str(round(second, 1)) for second in seconds)
    return f"The video contains {len(seconds)} frames sampled at {times} seconds. "


def read_video(
    source: MediaSource,
    *,
    size: tuple[int, int] = DEFAULT_SIZE,
    sampling: FrameSampling | None = None,
    max_frames: int = DEFAULT_MAX_FRAMES,
    frames_fps: float = FOLDER_FPS,
) -> SampledVideo:
    """Read the frames selected by ``sampling`` (default: 8, uniform), resized to ``size`` (height, width).

    The aspect ratio is not kept, as in the reference. Only the selected frames and those they depend on are decoded.

    Args:
        source: a video file, its bytes or a binary file object; an image (a video of one frame); a folder of frames
            in natural order, or a list of their paths.
        frames_fps: frame rate of a folder or list of frames.

    Raises:
        MediaError: a source that cannot be used.
        ValueError: invalid arguments, such as more than ``max_frames`` frames.
    """
    sampling = sampling or FrameSampling()
    if min(size) < 1:
        raise ValueError(f"size is {size}. Give (height, width), 1 or more each.")
    check_frame_limit(sampling, max_frames)
    if isinstance(source, (list, tuple)):
        return _read_frames(source, f"{len(source)} frames", size, sampling, max_frames, frames_fps)
    if is_folder(source):
        return _read_frames(frame_paths(Path(source)), str(source), size, sampling, max_frames, frames_fps)
    with open_media(source) as media:
        if media.is_image:
            return _image(media, size)
        if media.is_animation:
            return _read_animation(media, size, sampling, max_frames)
        return _read_file(media, size, sampling, max_frames)


def read_image(source: Source, *, size: tuple[int, int] = DEFAULT_SIZE) -> SampledVideo:
    """Read an image as a video of one frame [1, 3, H, W], resized by Pillow's bicubic filter.

    Raises MediaError for a file that is not an image.
    """
    with open_media(source) as media:
        return _image(media, size)


def _image(media: MediaFile, size: tuple[int, int]) -> SampledVideo:
    frames = load_image(media, size)[None]
    return SampledVideo(frames, [0], [0.0], FOLDER_FPS, 1, 0.0, media.name, "image")


def _read_frames(
    paths: FrameListSource | list[Path],
    name: str,
    size: tuple[int, int],
    sampling: FrameSampling,
    max_frames: int,
    fps: float,
) -> SampledVideo:
    if not paths:
        raise MediaError("The list of frames is empty. Give at least one image.")
    if not fps > 0:
        raise ValueError(f"frames_fps is {fps}. Give a positive number of frames per second.")
    seconds, duration = [k / fps for k in range(len(paths))], len(paths) / fps
    indices = choose_indices(seconds, duration, sampling, max_frames)
    frames = load_frames([paths[i] for i in indices], size)
    return SampledVideo(frames, indices, [seconds[i] for i in indices], fps, len(paths), duration, name, "frames")


def _read_animation(media: MediaFile, size: tuple[int, int], sampling: FrameSampling, max_frames: int) -> SampledVideo:
    animation = open_animation(media)
    seconds, duration = animation.seconds, animation.duration
    indices = choose_indices(seconds, duration, sampling, max_frames)
    frames = animation.load(indices, size)
    fps = len(seconds) / duration
    chosen = [seconds[i] for i in indices]
    return SampledVideo(frames, indices, chosen, fps, len(seconds), duration, media.name, "video")


def _read_file(media: MediaFile, size: tuple[int, int], sampling: FrameSampling, max_frames: int) -> SampledVideo:
    scaler = Scaler(size)
    with media.container() as container:
        stream = video_stream(container, media)
        index = build_index(container, stream, media)
        if container.format.name in ("gif", "apng"):
            check_animation(media.name, len(index.pts), stream.codec_context.width, stream.codec_context.height)
        indices = chosen_frames(media, index.seconds, index.duration, sampling, max_frames)
        pictures = decode_by_seeking(container, stream, index, indices, scaler)
    if len(pictures) < len(indices):
        read = decode_in_order(media, index, indices, scaler)
        pictures = read.pictures
        if len(pictures) < len(indices):
            index = index_after(media, index, indices, read)
            indices = chosen_frames(media, index.seconds, index.duration, sampling, max_frames)
            pictures = decode_in_order(media, index, indices, scaler).pictures
    return sampled_video(media, index, indices, pictures)


def chosen_frames(
    media: MediaFile, seconds: np.ndarray, duration: float, sampling: FrameSampling, max_frames: int
) -> list[int]:
    """Return ``choose_indices`` of a file. Raises MediaError with its name."""
    try:
        return choose_indices(seconds, duration, sampling, max_frames)
    except MediaError as error:
        raise MediaError(f"{media.name}: {error}") from error


def is_complete(read: OrderedRead, index: FrameIndex) -> bool:
    """Whether all packets of the index were read and decoded."""
    return read.num_packets >= len(index.pts) and not read.num_refused


def index_after(media: MediaFile, index: FrameIndex, indices: list[int], read: OrderedRead) -> FrameIndex:
    """Raise MediaError if frames are missing because the file is damaged; else return the index of the shown frames.

    A valid file can list frames that are never shown (VP8's hidden reference frames); they do not count.
    """
    lost = [i for i in indices if i not in read.pictures]
    if not read.shown:
        raise MediaError(
            f"{media.name} lists {len(index.pts)} frames, but none can be decoded. It is truncated or damaged: copy it "
            "again, or convert it: ffmpeg -i FILE out.mp4"
        )
    if not is_complete(read, index):
        step = 1.0 / index.fps
        end = float(index.seconds[lost[0]])
        raise MediaError(
            f"{media.name} is truncated or damaged: it lists {len(index.pts)} frames ({index.duration:.1f} s), "
            f"{len(read.shown)} can be decoded, and the frame at {end:.1f} s is not among them. "
            f"Use the part that can be decoded (end={max(end - step, step):.1f}), or copy the file again."
        )
    return index_of_shown(read.shown, index)


def sampled_video(media: MediaFile, index: FrameIndex, indices: list[int], pictures: Pictures) -> SampledVideo:
    """Return the decoded frames of a file with their times."""
    assert len(pictures) == len(indices), "every frame was chosen from those that were shown"
    frames = np.stack([pictures[i] for i in indices])
    seconds = [float(index.seconds[i]) for i in indices]
    return SampledVideo(frames, indices, seconds, index.fps, len(index.pts), index.duration, media.name, "video")


class VideoProcessor:
    """Normalize frames for the vision encoder; ``crop_scale`` is the area range of training crops (augmentation.py)."""

    def __init__(
        self,
        size: tuple[int, int] = DEFAULT_SIZE,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        crop_scale: tuple[float, float] = (0.5, 1.0),
    ) -> None:
        self.size = size
        self.image_mean = np.asarray(image_mean, dtype=np.float32)
        self.image_std = np.asarray(image_std, dtype=np.float32)
        self.crop_scale = crop_scale

    @classmethod
    def from_settings(cls, settings: ProcessorSettings) -> VideoProcessor:
        """Return the processor of a model's settings."""
        return cls((settings.image_size, settings.image_size), settings.image_mean, settings.image_std)

    def __call__(self, frames_uint8: np.ndarray) -> np.ndarray:
        """Map uint8 RGB [T, 3, H, W] to float32 (x / 255 - mean) / std, same shape."""
        if frames_uint8.dtype != np.uint8 or frames_uint8.ndim != 4 or frames_uint8.shape[1] != 3:
            raise ValueError(f"Frames are {frames_uint8.dtype} {list(frames_uint8.shape)}. Give uint8 [T, 3, H, W].")
        scaled = frames_uint8.astype(np.float32) / np.float32(255)
        return (scaled - self.image_mean[:, None, None]) / self.image_std[:, None, None]
