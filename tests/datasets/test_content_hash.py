"""Files are hashed once and again only after a change; every kind of change is detected."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from video_llama.datasets.content_hash import CLOCK_TICK_SECONDS, CONTENTS_FILE, ContentHashes
from video_llama.datasets.sample import FetchedMember, TarMember
from video_llama.errors import MediaError


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file as changed long ago."""
    monkeypatch.setattr("video_llama.datasets.content_hash.CLOCK_TICK_SECONDS", -1.0)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"frames")
    return path


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(clip: Path, tmp_path: Path) -> None:
    for num_read in (1, 0):
        contents = ContentHashes(tmp_path)
        assert {contents.of(clip).sha256 for _ in range(2)} == {sha256(b"frames")}
        assert contents.num_read == num_read


@pytest.mark.usefixtures("settled")
def test_a_touched_or_moved_file_has_the_same_content(clip: Path, tmp_path: Path) -> None:
    first = ContentHashes(tmp_path).of(clip).sha256
    os.utime(clip, (1, 1))
    assert ContentHashes(tmp_path).of(clip).sha256 == first
    assert ContentHashes(tmp_path).of(clip.rename(tmp_path / "moved.mp4")).sha256 == first


@pytest.mark.usefixtures("settled")
def test_new_bytes_of_the_same_size_and_time_are_detected(clip: Path, tmp_path: Path) -> None:
    before = clip.stat()
    ContentHashes(tmp_path).of(clip)
    time.sleep(0.02)  # longer than the tick of the clock
    clip.write_bytes(b"FRAMES")
    os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = clip.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert ContentHashes(tmp_path).of(clip).sha256 == sha256(b"FRAMES")


def test_the_hash_of_a_file_that_just_changed_is_not_stored(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = ContentHashes(tmp_path)
    contents.of(clip)
    assert not (tmp_path / CONTENTS_FILE).exists()
    later = time.time() + CLOCK_TICK_SECONDS + 1
    monkeypatch.setattr("video_llama.datasets.content_hash.time.time", lambda: later)
    contents.of(clip)
    contents.of(clip)
    assert contents.num_read == 2
    assert len((tmp_path / CONTENTS_FILE).read_text().splitlines()) == 1


@pytest.mark.usefixtures("settled")
def test_incomplete_rows_are_reported_and_hashed_again(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ContentHashes(tmp_path).of(clip)
    with (tmp_path / CONTENTS_FILE).open("a") as file:
        file.write('{"file": "/x.mp4", "sta')
    contents = ContentHashes(tmp_path)
    assert "1 rows are incomplete" in caplog.text
    contents.of(clip)
    assert contents.num_read == 0
    assert len((tmp_path / CONTENTS_FILE).read_text().splitlines()) == 1


@pytest.mark.usefixtures("settled")
def test_a_process_that_does_not_write_keeps_hashes_in_memory(clip: Path, tmp_path: Path) -> None:
    contents = ContentHashes(tmp_path, writes=False)
    contents.of(clip)
    contents.of(clip)
    assert contents.num_read == 1
    assert not (tmp_path / CONTENTS_FILE).exists()


def test_the_hash_of_a_folder_depends_on_its_frames(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    (folder / "2.png").write_bytes(b"two")
    first = ContentHashes(tmp_path).of(folder).sha256
    (folder / "2.png").write_bytes(b"TWO")
    assert ContentHashes(tmp_path).of(folder).sha256 != first


@pytest.fixture
def member() -> Iterator[TarMember]:
    with fsspec.open("memory://contents/part.tar", "wb") as file:
        file.write(b"....frames")
    yield TarMember("memory://contents/part.tar", "a.mp4", offset=4, size=6, state="x")
    fsspec.filesystem("memory").rm("/contents", recursive=True)


def test_a_tar_member_is_fetched_once_and_read_from_memory(member: TarMember, tmp_path: Path) -> None:
    content = ContentHashes(tmp_path).of(member)
    assert content.sha256 == sha256(b"frames")
    assert isinstance(content.file, FetchedMember)
    assert content.file.open().read() == b"frames"
    again = ContentHashes(tmp_path)
    assert (again.of(member).file, again.num_read) == (member, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"lost.mp4 cannot be read: No such file"):
        ContentHashes(tmp_path).of(tmp_path / "lost.mp4")
