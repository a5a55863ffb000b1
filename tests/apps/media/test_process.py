"""The media process: what it loads."""

import struct
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from video_llama.apps.media.limits import MediaLimits
from video_llama.apps.media.reader import MediaReader
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaOptions


def test_it_loads_neither_torch_nor_transformers():
    code = (
        "import sys, video_llama.apps.media.process\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_size_of_a_huge_image_is_in_the_error(assistant):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with closing(MediaReader(assistant.engine, MediaLimits())) as reader, NamedTemporaryFile(suffix=".png") as file:
        file.write(png)
        file.flush()
        with pytest.raises(MediaError, match=r"is 20000 x 20000 pixels"):
            reader.read(Path(file.name), MediaOptions())
