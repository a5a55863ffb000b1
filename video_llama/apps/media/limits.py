"""What one medium may take before it is refused, or the process that decodes it is killed."""

from __future__ import annotations

from pydantic import Field

from video_llama.config import Config

MEBIBYTE = 2**20


class MediaLimits(Config):
    """Limits of decoding: seconds, pixels, bytes."""

    max_media_seconds: float = Field(default=600.0, gt=0)
    """How long a video or sound may last."""
    max_media_pixels: int = Field(default=50_000_000, ge=1)
    """Width x height of an image or of a video's frames."""
    media_workers: int = Field(default=2, ge=1)
    """Processes that decode media."""
    media_worker_seconds: float = Field(default=30.0, gt=0)
    """For decoding one medium; then its process is killed."""
    media_worker_bytes: int = Field(default=2048 * MEBIBYTE, ge=256 * MEBIBYTE)
    """Memory that decoding one medium may take, beside what the libraries have taken before."""
