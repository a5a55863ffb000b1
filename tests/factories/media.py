"""Small media files for the tests: patterned clips (`write_clip`), noise (`write_video`), sound and damaged files."""

from __future__ import annotations

import struct
import wave
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from video_llama.processors.media_file import MediaFile
from video_llama.processors.video_decode import Scaler
from video_llama.processors.video_index import video_stream

FPS = 25
TIME_BASE = Fraction(1, 1000)
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"}}


@dataclass(frozen=True)
class Clip:
    """Settings of a video file. ``pts`` in milliseconds; None means a constant ``FPS``."""

    suffix: str = "mp4"
    codec: str = "libx264"
    num_frames: int = 60
    size: tuple[int, int] = (96, 128)  # height, width
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    pts: Callable[[int], int] | None = None


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return RGB uint8 [H, W, 3]: a moving gradient and a bar code of ``number``."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x * 2 + 5 * number) % 256, (y * 2 + 3 * number) % 256, (x + y + 7 * number) % 256], axis=-1)
    bar = max(1, width // 10)
    for bit in range(min(10, width)):
        image[: max(1, height // 4), bit * bar : (bit + 1) * bar] = 255 if number >> bit & 1 else 0
    return image.astype(np.uint8)


def write_clip(path: Path, clip: Clip) -> Path:
    """Encode ``clip.num_frames`` of ``picture``."""
    with av.open(str(path), "w", options=clip.container) as container:
        write_stream(container, clip)
    return path


def write_stream(container: Any, clip: Clip) -> None:
    stream = add_stream(container, clip)
    for packet in encoded(stream, clip):
        container.mux(packet)


def add_stream(container: Any, clip: Clip) -> Any:
    stream = container.add_stream(clip.codec, rate=FPS, options=QUIET.get(clip.codec, {}) | clip.options)
    stream.height, stream.width = clip.size
    stream.pix_fmt = clip.pixels
    stream.codec_context.thread_count = 1
    if clip.pts is not None:
        stream.codec_context.time_base = TIME_BASE
    return stream


def encoded(stream: Any, clip: Clip) -> Iterator[Any]:
    for number in range(clip.num_frames):
        frame = av.VideoFrame.from_ndarray(picture(number, clip.size), format="rgb24").reformat(format=clip.pixels)
        frame.pts = number if clip.pts is None else clip.pts(number)
        frame.time_base = Fraction(1, FPS) if clip.pts is None else TIME_BASE
        yield from stream.encode(frame)
    yield from stream.encode(None)


def remux(source: Path, target: Path, change: Callable[[Any], bool], options: dict[str, str] | None = None) -> Path:
    """Copy the packets of the first video stream for which ``change`` (which may edit them) returns True."""
    with av.open(str(source)) as read, av.open(str(target), "w", options=options or {}) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size and change(packet):
                packet.stream = stream
                written.mux(packet)
    return target


def decode_all(path: Path, size: tuple[int, int]) -> tuple[list[np.ndarray], list[int | None]]:
    """Return all frames of the main stream, decoded in sequence, uint8 [3, H, W] each, and their pts."""
    media, scaler = MediaFile(path), Scaler(size)
    with media.container() as container:
        stream = video_stream(container, media)
        shown = [(scaler(frame), frame.pts) for frame in container.decode(stream)]
    return [frame for frame, _ in shown], [pts for _, pts in shown]


def write_sound(
    path: Path,
    waveform: np.ndarray,
    rate: int,
    codec: str,
    sample_format: str,
    layout: str = "mono",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode ``waveform`` [channels, samples], whose values are in the range of ``sample_format``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options=options or {})
        stream.codec_context.format = sample_format
        for packet in sound_packets(stream, waveform, rate, sample_format, layout):
            container.mux(packet)
    return path


def sound_packets(stream: Any, waveform: np.ndarray, rate: int, sample_format: str, layout: str) -> Iterator[Any]:
    if waveform.shape[1]:
        planar = sample_format.endswith("p")
        samples = waveform if planar else waveform.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=sample_format, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def tone(seconds: float, rate: int, frequencies: Sequence[float] = (440.0,)) -> np.ndarray:
    """Return sine waves, float64 [len(frequencies), samples] in -0.5..0.5."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * frequency * time) for frequency in frequencies])


def patch_box(path: Path, target: Path, kind: bytes, offset: int, value: bytes) -> Path:
    """Copy an mp4 with ``value`` written ``offset`` bytes into the payload of every box of this kind."""
    data = bytearray(path.read_bytes())
    place = data.find(kind)
    assert place >= 0, kind
    while place >= 0:
        data[place + 4 + offset : place + 4 + offset + len(value)] = value
        place = data.find(kind, place + 4)
    target.write_bytes(data)
    return target


def lengthen_header(path: Path, target: Path, seconds: int) -> Path:
    """Copy an mp4 or mkv with ``seconds`` as the duration in its header. The frames are not changed."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        place = data.find(b"\x44\x89\x88") + 3  # Duration, 8 bytes, in milliseconds
        data[place : place + 8] = struct.pack(">d", seconds * 1000.0)
        target.write_bytes(data)
        return target
    movie_scale = struct.unpack(">I", data[data.find(b"mvhd") + 16 :][:4])[0]
    media_scale = struct.unpack(">I", data[data.find(b"mdhd") + 16 :][:4])[0]
    patch_box(path, target, b"mvhd", 16, struct.pack(">I", seconds * movie_scale))
    patch_box(target, target, b"tkhd", 20, struct.pack(">I", seconds * movie_scale))
    return patch_box(target, target, b"mdhd", 16, struct.pack(">I", seconds * media_scale))


def write_video(
    path: Path,
    rng: np.random.Generator,
    *,
    seconds: float = 1.0,
    size: tuple[int, int] = (48, 64),
    tone: np.ndarray | None = None,
    num_frames: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write an mp4 of noise (H.264, 10 frames per second), with AAC audio if ``tone`` (16 kHz) is given."""
    with av.open(str(path), "w", format="mp4", options=options or {}) as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = None
        if tone is not None:
            audio = container.add_stream("aac", rate=16000, layout="mono")
        for index in range(round(seconds * 10) if num_frames is None else num_frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(tone[None, :], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """Write a 16-bit mono wav file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_media(folder: Path, rng: np.random.Generator) -> dict[str, Path]:
    """Write a "video" with sound, a "silent" video, a "sound" and an "image"; return their paths."""
    tone = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)
    paths = {
        "video": write_video(folder / "with sound.mp4", rng, seconds=3, tone=tone),
        "silent": write_video(folder / "silent.mp4", rng, seconds=2),
        "sound": write_wav(folder / "tone.wav", tone),
        "image": folder / "picture.png",
    }
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(paths["image"])
    return paths


def grey_bomb(side: int) -> bytes:
    """Return a PNG of a few hundred kB with ``side`` x ``side`` 16-bit grey zeros, converted to 64 bits per pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes((1 + 2 * side) * side))
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_long_video(path: Path, seconds: int, *, codec: str = "libx264", sound: str | None = "aac") -> Path:
    """Write a video (10 frames per second) whose picture changes every 10 seconds, with a tone that changes with it.

    The sampling rate is 48 kHz for Opus, else 16 kHz. ``sound`` None writes no track.
    """
    rate = 48000 if sound == "libopus" else 16000
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=10, options={"g": "25", "threads": "1"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        if codec == "libx264":
            video.options = {**video.options, "preset": "ultrafast"}
        audio = None if sound is None else container.add_stream(sound, rate=rate, layout="mono")
        for second in range(seconds):
            scene = second // 10
            for index in range(10):
                image = picture(10 * second + index, (48, 64)) // 4 + np.uint8(60 * (scene % 4))
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = 10 * second + index
                container.mux(video.encode(frame))
            if audio is not None:
                time = np.arange(second * rate, (second + 1) * rate) / rate
                block = (0.4 * np.sin(2 * np.pi * (200 + 50 * scene + time) * time)).astype(np.float32)
                sample_format = audio.codec_context.format.name
                if sample_format.startswith("s16"):
                    block = (block * 32767).astype(np.int16)
                piece = av.AudioFrame.from_ndarray(block[None], format=sample_format, layout="mono")
                piece.sample_rate, piece.pts = rate, second * rate
                container.mux(audio.encode(piece))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path
