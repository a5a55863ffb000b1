"""Media read ahead: shared media, segments, folders of frames, errors, URLs."""

import os
import signal
import tarfile
import threading
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import fsspec
import pytest

from tests.apps.batch.conftest import default_media
from video_llama.apps.batch import reading
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.reading import BatchReader
from video_llama.apps.batch.shards import rows_of_shards
from video_llama.apps.media.pool import MediaNeeds
from video_llama.datasets.question_rows import QuestionRow


@pytest.fixture
def open_reader(assistant):
    def make(**limits):
        options = default_media(assistant.settings.num_frames)
        return closing(BatchReader(MediaNeeds.of(assistant.engine), BatchLimits(**limits), options, 2))

    return make


def row(path, **values):
    return QuestionRow("1", (str(path),), "?", **values)


def test_a_shared_medium_is_read_once_and_batches_keep_their_order(open_reader, clips):
    batches = [[row(clips["video"])], [row(clips["video"]), row(clips["image"])], [row(clips["silent"])]]
    with open_reader() as reader:
        read = list(reader.read(batches))
    assert [batch.rows for batch in read] == batches
    key = (str(clips["video"]), None, None)
    assert read[0].media[key] is read[1].media[key]
    assert read[0].media[key].source == str(clips["video"])
    assert reader.times.num_media == 3
    assert reader.times.decode > 0
    assert reader.times.media_seconds == pytest.approx(sum(_duration(batch) for batch in read[1:]))


def _duration(batch):
    media = batch.media.values()
    return sum(max((part.duration for part in (each.frames, each.sound) if part), default=0) for each in media)


def test_segments_and_folders_of_frames(open_reader, clips, tmp_path):
    from PIL import Image

    for index in range(3):
        Image.new("RGB", (32, 32), (index, 0, 0)).save(tmp_path / f"{index}.png")
    with open_reader() as reader:
        [batch] = reader.read([[row(clips["video"], start=1.0, end=2.0), row(tmp_path)]])
    part, frames = batch.media.values()
    assert all(1.0 <= second <= 2.0 for second in part.frames.seconds)
    assert frames.kind == "frames"


def test_media_that_cannot_be_read_are_errors(open_reader, clips, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    size = clips["video"].stat().st_size
    rows = [
        row(bad),
        row(tmp_path / "absent.mp4"),
        row(clips["video"], start=99.0),
        row("\0.mp4"),
        row("/dev/zero"),
        row("ftp://example.org/a.mp4"),
        row(f"file://{tmp_path}/absent.mp4"),
        row(clips["video"]),
    ]
    with open_reader(max_media_bytes=size - 1) as reader:
        [batch] = reader.read([rows])
    messages = (
        "bad.mp4 cannot be read",
        "absent.mp4 does not exist",
        f"has more than {size - 1:,} bytes",
        "\0.mp4 does not exist",
        "/dev/zero is not a file",
        "ftp://example.org/a.mp4 is at none of the supported addresses",
        "/absent.mp4 cannot be read (FileNotFoundError)",
        "set max_media_bytes",
    )
    for found, message in zip(batch.media.values(), messages, strict=True):
        assert found.startswith("MediaError: ")
        assert message in found
        assert "\n" not in found


def test_urls(open_reader, clips):
    """A redirect is followed; the record has the address without its query, which can be a key."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            is_first = self.path.startswith("/first")
            self.send_response(302 if is_first else 200)
            self.send_header("Location", "/second?key=1")
            self.end_headers()
            if not is_first:
                self.wfile.write(clips["video"].read_bytes())

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/first.mp4"
        with open_reader(allowed_hosts=(address.split("/")[2],)) as reader:
            reader._fetcher = replace(reader._fetcher, is_allowed=lambda address: True)
            [batch] = reader.read([[row(f"{address}?key=1")]])
        server.shutdown()
    [medium] = batch.media.values()
    assert (medium.source, medium.kind) == (address, "video")
    assert reader.times.fetch > 0


def test_private_addresses_are_refused_and_nothing_is_requested(open_reader):
    requested = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        rows = [
            row("http://127.0.0.1/a.mp4"),
            row(f"http://localhost:{port}/a.mp4"),
            row("http://169.254.169.254/latest?key=1"),
        ]
        with open_reader(allowed_hosts=("*", f"localhost:{port}")) as reader:
            [batch] = reader.read([rows])
        server.shutdown()
    assert requested == []
    assert all("has an address that is not public. Download the file" in each for each in batch.media.values())
    with open_reader(allowed_hosts=("example.org",)) as reader:
        [batch] = reader.read([rows])
    assert all("does not fetch media from" in each and "add --allow-host" in each for each in batch.media.values())


def test_failed_downloads_are_repeated(open_reader, clips, monkeypatch):
    """The first answer of the site is an error of the server; the second file is missing for good."""
    monkeypatch.setattr(reading, "RETRY_SECONDS", 0.01)
    requested = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            is_good = self.path == "/a.mp4" and len(requested) > 1
            self.send_response(200 if is_good else 503 if self.path != "/absent.mp4" else 404)
            self.end_headers()
            if is_good:
                self.wfile.write(clips["video"].read_bytes())

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        with open_reader(allowed_hosts=(host,), retries=1, media_workers=1) as reader:
            reader._fetcher = replace(reader._fetcher, is_allowed=lambda address: True)
            rows = [row(f"http://{host}/{name}.mp4") for name in ("a", "absent", "busy")]
            [batch] = reader.read([rows])
        server.shutdown()
    good, absent, busy = batch.media.values()
    assert good.kind == "video"
    assert "returned status 404" in absent
    assert busy.endswith("returned status 503 for the URL. Check the URL. (tried 2 times)")
    assert requested == ["/a.mp4", "/a.mp4", "/absent.mp4", "/busy.mp4", "/busy.mp4"]
    assert reader.times.retries == 2


def test_a_process_that_dies_is_replaced_and_the_medium_read_again(open_reader, clips):
    with open_reader(media_workers=1) as reader:
        [first] = reader._reader.pids
        os.kill(first, signal.SIGKILL)
        [batch] = reader.read([[row(clips["video"])]])
        assert first not in reader._reader.pids
    [medium] = batch.media.values()
    assert not isinstance(medium, str)


def test_files_of_a_store_and_of_a_shard(open_reader, clips, tmp_path):
    content = clips["video"].read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe("/reading/a.mp4", content)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(clips["video"], "a.mp4")
    [in_shard] = rows_of_shards(str(tmp_path / "s.tar"), None)
    paths = ("memory://reading/a.mp4", f"file://{clips['video']}", *in_shard.media)
    rows = [QuestionRow("1", (path,), "?") for path in paths]
    with open_reader() as reader:
        [batch] = reader.read([rows])
    with open_reader(max_media_bytes=len(content) - 1) as reader:
        [refused] = reader.read([rows])
    assert [medium.kind for medium in batch.media.values()] == ["video"] * 3
    assert [medium.source for medium in batch.media.values()] == [*paths[:2], f"{tmp_path}/s.tar:a.mp4"]
    assert all("set max_media_bytes" in error for error in refused.media.values())
