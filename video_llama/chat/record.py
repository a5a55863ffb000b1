"""The record of an answer: weights, media, prompt, decoding settings, token counts and times, ready for JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from video_llama.checkpoints.folder import ModelFolder
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.processors.medium import ReadMedium

HASHED_BYTES = 64 * 2**20
"""Files up to this size are recorded with their SHA-256; hashing larger ones would take seconds."""

USED = "used"


@dataclass(frozen=True)
class Record:
    """Everything that an answer depends on. ``seconds`` is wall time; ``media`` has positions in the medium."""

    question: str
    weights: dict[str, Any]
    """name, path, files (bytes, and SHA-256 of small files), notice, and the weights and arithmetic of each part."""
    modalities: dict[str, str]
    """For video and audio: "used", or the reason why not."""
    media: list[dict[str, Any]]
    """In prompt order: kind, source, frames (indices, seconds, fps, ...) and sound (start_seconds, ...) or None."""
    prompt: str
    """The text of the prompt; ``<ImageHere>`` is replaced by the tokens of a medium."""
    prompt_sha256: str
    """SHA-256 of the token ids of the prompt, placeholders included: equal prompts have equal hashes."""
    decoding: dict[str, Any]
    """The resolved decoding settings, with the seed."""
    tokens: dict[str, int]
    """prompt (including media), media, reused (prompt tokens taken from the cache), generated."""
    seconds: dict[str, float]
    """decode_media and encode_media (of media added since the last answer), prefill, generate."""
    stop_reason: str
    """stop_string, end_token, max_new_tokens, or closed (the caller stopped the answer)."""
    dropped_turns: int
    """Number of old turns that were removed because the context is too short."""
    warnings: list[str] = field(default_factory=list)
    """Shown before the answer: a medium is unlike those that the model was trained on. Usually empty."""
    neutralized: list[str] = field(default_factory=list)
    """Control tokens and turn markers in the user's texts, such as ``</s>``, that were split by a space."""

    subtitles: dict[str, Any] | None = None
    """Set if subtitles were given with the question: source, num_cues, start and end of their times in seconds."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        return asdict(self)

    def public_dict(self) -> dict[str, Any]:
        """Return ``as_dict`` without the path of the weights, for clients of a server."""
        weights = {key: value for key, value in self.weights.items() if key != "path"}
        return asdict(replace(self, weights=weights))


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and its record."""

    text: str
    record: Record

    def as_dict(self) -> dict[str, Any]:
        """Return the text and the record as one dict, for JSON."""
        return {"answer": self.text, **self.record.as_dict()}


def prompt_hash(ids: Sequence[int]) -> str:
    """Return the SHA-256 of token ids, written as decimal numbers separated by spaces."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def describe_weights(folder: ModelFolder) -> dict[str, Any]:
    """Return name, path, files, notice and arithmetic of the weights; a model from memory has no files."""
    path, placing = folder.path, folder.placing
    config = cast("VideoLlamaConfig", folder.model.config)
    files = {} if path is None else {file.name: _describe_file(file) for file in sorted(path.iterdir())}
    return {
        "name": folder.manifest.name,
        "path": None if path is None else str(path),
        "files": files,
        "notice": folder.manifest.notice,
        "arithmetic": None if placing is None else placing.describe(config),
    }


def _describe_file(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    if not file.is_file() or size > HASHED_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def describe_modalities(media: Sequence[ReadMedium]) -> dict[str, str]:
    """For video and audio: "used" if any medium gave it, else the reasons why none did."""
    seen = [medium.why_no_frames for medium in media]
    heard = [medium.why_no_sound for medium in media]
    return {"video": _summary(seen), "audio": _summary(heard)}


def _summary(reasons: Sequence[str | None]) -> str:
    if not reasons:
        return "no medium given"
    return USED if None in reasons else "; ".join(dict.fromkeys(reason for reason in reasons if reason))
