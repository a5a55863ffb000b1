"""The sample tables of an mp4 against its packets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processors.video_formats import CLIPS
from video_llama.processors.media_file import MediaFile
from video_llama.processors.video_index import _index_from_packets, build_index, video_stream

TABLED = [name for name, clip in CLIPS.items() if clip.suffix in ("mp4", "mov") and clip.num_frames > 1]


@pytest.mark.parametrize("name", [name for name in TABLED if "fragmented" not in name])
def test_the_table_of_an_mp4_says_what_its_packets_say(make_clip: Any, name: str) -> None:
    media = MediaFile(make_clip(name, CLIPS[name]))
    with media.container() as container:
        from_table = build_index(container, video_stream(container, media), media)
    with media.container() as container:
        from_packets = _index_from_packets(container, video_stream(container, media), media)
    assert from_table.is_table
    assert from_table.pts.tolist() == from_packets.pts.tolist()
    assert from_table.keyframes.tolist() == from_packets.keyframes.tolist()
    assert from_table.fps == from_packets.fps
