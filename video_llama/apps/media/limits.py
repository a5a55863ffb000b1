"""Limits of decoding one medium."""

from __future__ import annotations

from pydantic import Field

from video_llama.config import Config

MEBIBYTE = 2**20


class MediaLimits(Config):
    """Limits of decoding: duration, size, time and memory."""

    max_media_seconds: float = Field(default=600.0, gt=0)
    """Maximum duration of a video or sound, in seconds."""
    max_media_pixels: int = Field(default=50_000_000, ge=1)
    """Maximum width x height of an image or of the frames of a video."""
    media_workers: int = Field(default=2, ge=1)
    """Number of decoding processes."""
    media_worker_seconds: float = Field(default=30.0, gt=0)
    """Maximum time for decoding one medium, in seconds; then its process is killed."""
    media_worker_bytes: int = Field(default=2048 * MEBIBYTE, ge=256 * MEBIBYTE)
    """Maximum memory for decoding one medium, in addition to the memory of the loaded libraries."""
