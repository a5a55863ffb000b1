"""How much memory the server's caches may use: keys and values of answers and of kept prompts, and encoded media."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from video_llama.chat.engine import EncodedMedium, Engine, PreparedTurn
from video_llama.errors import PromptError

MEDIA_SHARE = 1 / 8
"""Share of the encoded media. Keys and values have the rest; those of answers come before those of kept prompts."""
FREE_SHARE = 1 / 2
"""Share of the memory that is free when the server starts which the caches may use by default."""

CGROUP = Path("/sys/fs/cgroup")
"""Files with the limits of a container (cgroup v2)."""


class CacheTooSmallError(PromptError):
    """An answer needs more keys and values than the server may keep."""


@dataclass(frozen=True)
class CacheLimit:
    """The limit of all caches together, in bytes, and the size of the keys and values of one token."""

    num_bytes: int
    bytes_per_token: int

    @staticmethod
    def of(engine: Engine, num_bytes: int | None) -> CacheLimit:
        """Return the limit for a model; ``num_bytes`` None is half of the free memory of its device."""
        if num_bytes is None:
            num_bytes = int(FREE_SHARE * free_bytes(engine.model.device))
        return CacheLimit(num_bytes, bytes_per_token(engine))

    @property
    def media_bytes(self) -> int:
        """Maximum size of the kept media."""
        return int(MEDIA_SHARE * self.num_bytes)

    @property
    def tokens(self) -> int:
        """Maximum number of tokens whose keys and values are kept."""
        return (self.num_bytes - self.media_bytes) // self.bytes_per_token

    def check(self, turn: PreparedTurn) -> None:
        """Raise CacheTooSmallError if an answer would not fit even if it ran alone."""
        needed = tokens_alone(turn)
        if needed > self.tokens:
            megabytes = [f"{count * self.bytes_per_token / 1e6:,.1f}" for count in (needed, self.tokens)]
            raise CacheTooSmallError(
                f"The answer needs up to {megabytes[0]} MB of keys and values, but this server keeps at most "
                f"{megabytes[1]} MB. Send a shorter prompt or lower max_tokens or num_beams."
            )


def final_length(turn: PreparedTurn) -> int:
    """Return the number of tokens of a prompt and its longest answer."""
    assert turn.decoding.max_new_tokens is not None, "resolved() sets it"
    return len(turn.prompt.input_ids) + turn.decoding.max_new_tokens


def tokens_alone(turn: PreparedTurn) -> int:
    """Return the number of tokens whose keys and values an answer needs if it runs alone."""
    if turn.decoding.num_beams > 1:
        return turn.decoding.num_beams * final_length(turn)
    return len(turn.prompt.input_ids) + final_length(turn)


def bytes_per_token(engine: Engine) -> int:
    """Return the size of the keys and values of one token in all layers."""
    text = engine.config.text_config
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    with torch.no_grad():
        embedded = engine.model.get_input_embeddings()(torch.tensor([[0]], device=engine.model.device))
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head_size * embedded.element_size())


def medium_bytes(medium: EncodedMedium) -> int:
    """Return the size of an encoded medium: its tokens, frames and sound clips."""
    arrays = [
        medium.video_tokens,
        medium.audio_tokens,
        None if medium.read.frames is None else medium.read.frames.frames,
        None if medium.read.sound is None else medium.read.sound.samples,
    ]
    return sum(int(array.nbytes) for array in arrays if array is not None)


def free_bytes(device: torch.device, cgroup: Path = CGROUP) -> int:
    """Return the free memory of a device; of the processor's, what Linux can give without swapping, else all.

    The memory of a container can have a lower limit, in the files of ``cgroup``.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = _number(Path("/proc/meminfo"), r"MemAvailable:\s*(\d+) kB")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if available is None else 1024 * available
    limit, used = _number(cgroup / "memory.max", r"(\d+)"), _number(cgroup / "memory.current", r"(\d+)")
    if limit is None or used is None:
        return free
    unused_files = _number(cgroup / "memory.stat", r"^inactive_file (\d+)") or 0  # Linux drops them when it must
    return max(0, min(free, limit - used + unused_files))


def _number(file: Path, pattern: str) -> int | None:
    """Return the number that a pattern finds in a file, or None."""
    try:
        found = re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found.group(1))
