"""Addresses of object stores: listing, content, tables, and what is refused."""

import pickle

import fsspec
import pytest

from video_llama.apps.batch.stores import MemberPath, file_system, stored_content, stored_files, table_copy
from video_llama.datasets.sample import TarMember
from video_llama.errors import DataError, MediaError


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/a/1.mp4": b"one", "/bucket/a/b/2.mp4": b"two", "/bucket/t.jsonl": b'{"media": "a/1.mp4"}\n'})
    yield system
    system.rm("/bucket", recursive=True)


def test_files_of_a_folder_a_pattern_and_one_file(memory):
    one, two = ("memory://bucket/a/1.mp4", "memory://bucket/a/b/2.mp4")
    assert stored_files("memory://bucket/a") == [("1.mp4", one), ("b/2.mp4", two)]
    assert stored_files("memory://bucket/a/*.mp4") == [("1.mp4", one)]
    assert stored_files("memory://bucket/**/*.mp4") == [("a/1.mp4", one), ("a/b/2.mp4", two)]
    assert stored_files(one) == [("1.mp4", one)]
    assert all(stored_content(address, 3) in (b"one", b"two") for address in (one, two))


def test_files_of_this_machine(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert stored_files(f"file://{tmp_path}") == [("a.mp4", f"file://{tmp_path}/a.mp4")]


def test_a_table_is_copied_once(memory):
    copy = table_copy("memory://bucket/t.jsonl")
    memory.rm("/bucket/t.jsonl")
    assert table_copy("memory://bucket/t.jsonl") == copy
    assert copy.read_text() == '{"media": "a/1.mp4"}\n'


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/a.mp4", "none of the supported addresses"),
        ("simplecache::http://169.254.169.254/latest", "none of the supported addresses"),
        ("memory://x::http://169.254.169.254/latest", "none of the supported addresses"),
        ("memory://absent.mp4", "cannot be read"),
    ],
)
def test_refused_addresses(address, message):
    with pytest.raises(MediaError, match=message):
        stored_content(address, 10)


def test_a_store_without_its_package():
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(MediaError, match="pip install s3fs"):
            file_system("s3://bucket/a.mp4")


class StoreError(Exception):
    """As those of botocore, google.auth and azure, which are no OSError."""


@pytest.mark.parametrize(("raised", "is_temporary"), [(StoreError("throttled"), True), (PermissionError("no"), False)])
def test_errors_of_a_store(memory, monkeypatch, raised, is_temporary):
    def fail(*args, **options):
        raise raised

    for name in ("open", "_open", "isdir", "get"):
        monkeypatch.setattr(type(memory), name, fail)
    member = TarMember("memory://bucket/s.tar", "a.mp4", 0, 3, "")
    for read in (lambda: stored_content("memory://bucket/a/1.mp4", 10), member.fetch):
        with pytest.raises(MediaError, match=f"{raised}|{type(raised).__name__}") as caught:
            read()
        assert caught.value.is_temporary is is_temporary
    for read in (lambda: stored_files("memory://bucket/a"), lambda: table_copy("memory://bucket/other.jsonl")):
        with pytest.raises(DataError, match=str(raised)):
            read()


def test_a_folder_is_listed_at_once(memory, monkeypatch):
    """In a store, each question about a file is a request."""
    asked, isdir = [], type(memory).isdir
    monkeypatch.setattr(type(memory), "isdir", lambda self, path: (asked.append(path), isdir(self, path))[1])
    assert len(stored_files("memory://bucket/a")) == 2
    assert asked == ["/bucket/a"]


def test_errors_of_sources(memory):
    with pytest.raises(DataError, match="does not exist, or has no files"):
        stored_files("memory://nothing/*.mp4")
    with pytest.raises(DataError, match="tables are not downloaded"):
        table_copy("https://example.org/t.jsonl")
    with pytest.raises(MediaError, match="set max_media_bytes"):
        stored_content("memory://bucket/a/1.mp4", 2)


def test_a_member_keeps_its_place_in_other_processes():
    path = MemberPath(TarMember("s.tar", "a.mp4", 512, 3, ""))
    again = pickle.loads(pickle.dumps(path))
    assert (path, path.member) == (again, again.member) == ("s.tar:a.mp4", path.member)
