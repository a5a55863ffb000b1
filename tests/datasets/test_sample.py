"""Samples list their media in prompt order; tar members are read at their offset, with errors for short shards."""

from pathlib import Path

import pytest

from video_llama.datasets.sample import Sample, SampleMedium, TarMember, source_of
from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaFile


def test_media_are_listed_in_prompt_order() -> None:
    more = SampleMedium("rows:1", Path("b.wav"), "audio")
    sample = Sample("rows:1", Path("a.mp4"), "video", caption="A dog.", more_media=(more,))
    assert sample.media == (SampleMedium("rows:1", Path("a.mp4"), "video"), more)
    assert sample.text_length == 6


def test_a_tar_member_is_read_at_its_offset(tmp_path: Path) -> None:
    shard = tmp_path / "part.tar"
    shard.write_bytes(b"....frames")
    member = TarMember(str(shard), "a.mp4", offset=4, size=6, state="x")
    with member.open() as file:
        assert file.read() == b"frames"
    source = source_of(member)
    assert isinstance(source, MediaFile)
    assert source.name == f"{shard}:a.mp4"
    assert source_of(tmp_path) == tmp_path


def test_errors_name_the_member(tmp_path: Path) -> None:
    shard = tmp_path / "part.tar"
    shard.write_bytes(b"....fra")
    with pytest.raises(MediaError, match=r"part.tar:a.mp4 has 3 of 6 bytes. Download the shard again"):
        TarMember(str(shard), "a.mp4", offset=4, size=6, state="x").fetch()
    with pytest.raises(MediaError, match=r"lost.tar:a.mp4 cannot be read"):
        TarMember(str(tmp_path / "lost.tar"), "a.mp4", offset=0, size=6, state="x").fetch()
