"""What a URL may reach: nothing by default, and of the allowed hosts only what is public; every redirect anew."""

import ipaddress
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from video_llama.apps.server.addresses import Fetcher, is_public, resolve
from video_llama.errors import MediaError

CONTENT = b"x" * 10_000
HOST = "media.test"
"""A name that no resolver knows; the tests say where it leads."""

PRIVATE = (
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:5601:5601",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_private(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public(address):
    assert is_public(ipaddress.ip_address(address))


class Site(BaseHTTPRequestHandler):
    """A real web server with what a hostile one would do."""

    def do_GET(self):
        name, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        getattr(self, f"do_{name}")(rest)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_clip(self, rest):
        self.reply(200, CONTENT)

    def do_missing(self, rest):
        self.reply(404)

    def do_to(self, rest):
        self.reply(302, Location=rest)

    def do_loop(self, rest):
        self.reply(302, Location="/loop")

    def do_short(self, rest):
        self.reply(200, CONTENT[:10], **{"Content-Length": "10000"})

    def do_endless(self, rest):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(CONTENT)

    def do_drip(self, rest):
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def do_host(self, rest):
        self.reply(200, self.headers["Host"].encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def port():
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.daemon_threads = True
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site.server_address[1]
    site.shutdown()
    site.server_close()


@pytest.fixture
def fetcher(port):
    """One whose allowed host leads to the site here, which it may reach although it is not public."""
    return Fetcher(
        (f"{HOST}:{port}",), 50_000, 2.0, 3, resolve=lambda host, port: ["127.0.0.1"], is_allowed=lambda address: True
    )


def test_fetches_from_the_pinned_address(fetcher, port):
    assert fetcher.fetch(f"http://{HOST}:{port}/clip?a=1") == CONTENT
    assert fetcher.fetch(f"http://{HOST}:{port}/host") == f"{HOST}:{port}".encode()


def test_follows_a_redirect_within_the_list(fetcher, port):
    assert fetcher.fetch(f"http://{HOST}:{port}/to//clip") == CONTENT


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", f"{HOST} answered 404"),
        ("loop", "More than 3 redirects"),
        ("endless", "larger than 50,000 bytes"),
        ("short", "could not be fetched"),
        ("to/http://elsewhere.test/clip", "does not fetch from elsewhere.test"),
        ("to/file:///etc/passwd", "is none that can be fetched"),
        ("to/http://127.0.0.1/clip", "does not fetch from 127.0.0.1"),
    ],
)
def test_refuses(fetcher, port, path, message):
    with pytest.raises(MediaError, match=message):
        fetcher.fetch(f"http://{HOST}:{port}/{path}")


def test_drip_is_cut_off(fetcher, port):
    start = time.monotonic()
    with pytest.raises(MediaError, match="took too long"):
        replace(fetcher, max_seconds=0.3).fetch(f"http://{HOST}:{port}/drip")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
def test_allowed_host_at_a_private_address(fetcher, port, address):
    inward = replace(fetcher, resolve=lambda host, port: ["8.8.8.8", address], is_allowed=is_public)
    with pytest.raises(MediaError, match="is at an address that is not public"):
        inward.fetch(f"http://{HOST}:{port}/clip")


@pytest.mark.parametrize(
    "url", ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://localhost/", "http://[::1]/"]
)
def test_every_spelling_of_the_loopback(url):
    host = url.removeprefix("http://").strip("/[]")
    with pytest.raises(MediaError, match=r"not public|has no address|does not fetch"):
        Fetcher((host, f"[{host}]"), 1000, 2.0, 3).fetch(url)


def test_second_look_is_never_taken(fetcher, port):
    """The name is resolved once: what it says a moment later (DNS rebinding) has no effect."""
    seen = []

    def first_public(host, port):
        seen.append(host)
        return ["127.0.0.1"] if len(seen) == 1 else ["10.0.0.1"]

    assert replace(fetcher, resolve=first_public).fetch(f"http://{HOST}:{port}/clip") == CONTENT
    assert seen == [HOST]


@pytest.mark.parametrize(
    ("pattern", "url", "is_allowed"),
    [
        ("a.test", "http://a.test/", True),
        ("a.test", "https://A.TEST./x", True),
        ("a.test", "http://a.test:8080/", False),
        ("a.test:8080", "http://a.test:8080/", True),
        ("a.test", "http://b.a.test/", False),
        ("*.a.test", "http://b.a.test/", True),
        ("*.a.test", "http://a.test/", False),
        ("*.a.test", "http://nota.test/", False),
        ("a.test", "http://a.test@b.test/", False),
        ("a.test", "http://b.test/?a.test", False),
        ("a.test", "ftp://a.test/", False),
        ("a.test", "http://a.test:99999/", False),
        ("a.test", "http:///clip", False),
    ],
)
def test_list_of_hosts(pattern, url, is_allowed):
    def arrived(host, port):
        raise MediaError("arrived")

    with pytest.raises(MediaError) as caught:
        Fetcher((pattern,), 1000, 2.0, 3, resolve=arrived).fetch(url)
    assert (str(caught.value) == "arrived") == is_allowed


def test_off_by_default():
    with pytest.raises(MediaError, match="Send the file as a data: URL, or start the server with --allow-host HOST"):
        Fetcher((), 1000, 2.0, 3).fetch("https://example.org/clip.mp4")


def test_resolver():
    assert "127.0.0.1" in resolve("localhost", 80)
    with pytest.raises(MediaError, match=r"The host nowhere\.invalid has no address"):
        resolve("nowhere.invalid", 80)
