"""A tiny random model whose answers are words and never end by themselves, on any machine; a file to break decoders."""

import struct
import zlib
from pathlib import Path

from tests.factories.models import make_folder


def make_talkative_folder(path: Path, *, seed: int = 0, **overrides) -> Path:
    """``make_folder``, with a decoder that finds nothing but words likely.

    The output rows of all other tokens (the end, stop strings, bytes) are zeros, so that their logits are 0; of two
    words' rows one is the other's negative, so that the greater of their logits is above 0.
    """
    from video_llama.chat import read_model_folder, write_model_folder

    folder = read_model_folder(make_folder(path, seed=seed, **overrides))
    tokenizer, rows_VD = folder.tokenizer, folder.model.lm_head.weight.data
    words = [token for token in range(tokenizer.vocab_size) if tokenizer.decode([token]).strip().isalpha()]
    others = [token for token in range(tokenizer.vocab_size) if token not in words]
    rows_VD[others] = 0
    rows_VD[words[1]] = -rows_VD[words[0]]
    tokenizer_path = path.with_name(f"{path.name}.tokenizer.model")
    rest = dict(settings=folder.settings, manifest=folder.manifest)
    write_model_folder(path, folder.model, tokenizer_path=tokenizer_path, **rest)
    return path


def grey_bomb(side: int) -> bytes:
    """A PNG of some hundred kilobytes: ``side`` x ``side`` zeros in 16 bit grey, which our conversion widens to 64."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes((1 + 2 * side) * side))
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
