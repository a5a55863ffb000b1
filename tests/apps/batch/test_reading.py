"""Media read ahead: shared media, segments, folders of frames, errors, URLs."""

import threading
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.apps.batch.conftest import default_media
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.reading import BatchReader
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
        row("s3://bucket/a.mp4"),
        row("file:///etc/passwd"),
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
        "s3://bucket/a.mp4 is not an http(s) URL. Download the file",
        "file:///etc/passwd is not an http(s) URL",
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
