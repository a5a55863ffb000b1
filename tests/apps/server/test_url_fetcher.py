"""Which URLs are fetched: none by default, only public addresses of allowed hosts, and the same for redirects."""

import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from video_llama.apps.server.url_fetcher import UrlFetcher, is_public, resolve_host
from video_llama.errors import MediaError

CONTENT = b"x" * 10_000
DRIP_SECONDS, PATIENCE = 60, 30.0
"""Seconds for which a site sends single bytes, and the time limit of the fetcher on a busy machine."""
HOST = "media.test"
"""A host name without a DNS entry; the tests provide its addresses."""

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
    "::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001:2::1",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff::1",
    "5f00::1",
    "fec0::1",
    "feff::1",
    "192.88.99.1",
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
    "address",
    ["93.184.215.14", "8.8.8.8", "2606:4700::1111", "2a00:1450::1", "3ffe::1", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public(address):
    assert is_public(ipaddress.ip_address(address))


class Site(BaseHTTPRequestHandler):
    """A web server with the behaviour of a malicious one."""

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
        for _ in range(2 * round(DRIP_SECONDS / 0.1)):
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
    """A fetcher whose allowed host resolves to the test site, and which allows its private address."""
    return UrlFetcher(
        (f"{HOST}:{port}",),
        50_000,
        PATIENCE,
        3,
        resolve=lambda host, port: ["127.0.0.1"],
        is_allowed=lambda address: True,
    )


def test_fetches_from_the_pinned_address(fetcher, port):
    assert fetcher.fetch(f"http://{HOST}:{port}/clip?a=1") == CONTENT
    assert fetcher.fetch(f"http://{HOST}:{port}/host") == f"{HOST}:{port}".encode()


def test_follows_a_redirect_within_the_list(fetcher, port):
    assert fetcher.fetch(f"http://{HOST}:{port}/to//clip") == CONTENT


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", f"{HOST} returned status 404"),
        ("loop", "leads to more than 3 redirects"),
        ("endless", "larger than 50,000 bytes"),
        ("short", "could not be fetched"),
        ("to/http://elsewhere.test/clip", "does not fetch media from elsewhere.test"),
        ("to/file:///etc/passwd", "The URL cannot be fetched"),
        ("to/http://127.0.0.1/clip", "does not fetch media from 127.0.0.1"),
    ],
)
def test_refuses(fetcher, port, path, message):
    with pytest.raises(MediaError, match=message):
        fetcher.fetch(f"http://{HOST}:{port}/{path}")


def test_slow_response_is_aborted(fetcher, port):
    start = time.monotonic()
    with pytest.raises(MediaError, match="took too long"):
        replace(fetcher, max_seconds=0.3).fetch(f"http://{HOST}:{port}/drip")
    assert time.monotonic() - start < DRIP_SECONDS / 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The files of a certificate and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    command = ["openssl", "req", *kind, *name, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def tls_port(certificate):
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    # Each handshake runs in the thread of its request: an aborted handshake must not stop the site.
    site.socket = context.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)
    site.daemon_threads, site.handle_error = True, lambda *args: None
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site.server_address[1]
    site.shutdown()
    site.server_close()


class TestHttps:
    """The same site with TLS and a certificate for ``HOST`` that only these tests trust."""

    @pytest.fixture
    def tls_fetcher(self, fetcher, tls_port):
        return replace(fetcher, hosts=(f"{HOST}:{tls_port}", f"other.test:{tls_port}"))

    @pytest.fixture
    def trusted(self, certificate, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))

    @pytest.mark.usefixtures("trusted")
    def test_trusted_certificate(self, tls_fetcher, tls_port):
        assert tls_fetcher.fetch(f"https://{HOST}:{tls_port}/clip") == CONTENT
        assert tls_fetcher.fetch(f"https://{HOST}:{tls_port}/to//clip") == CONTENT
        assert tls_fetcher.fetch(f"https://{HOST}:{tls_port}/host") == f"{HOST}:{tls_port}".encode()

    def test_untrusted_certificate(self, tls_fetcher, tls_port):
        with pytest.raises(MediaError, match=rf"certificate of {HOST} is not trusted \(self.signed.*SSL_CERT_FILE"):
            tls_fetcher.fetch(f"https://{HOST}:{tls_port}/clip")

    @pytest.mark.usefixtures("trusted")
    def test_certificate_of_another_host(self, tls_fetcher, tls_port):
        with pytest.raises(MediaError, match=r"certificate of other\.test is not trusted \(Hostname mismatch"):
            tls_fetcher.fetch(f"https://other.test:{tls_port}/clip")

    @pytest.mark.usefixtures("trusted")
    def test_private_address_and_host_not_allowed(self, tls_fetcher, tls_port):
        with pytest.raises(MediaError, match="has an address that is not public"):
            replace(tls_fetcher, is_allowed=is_public).fetch(f"https://{HOST}:{tls_port}/clip")
        with pytest.raises(MediaError, match=r"does not fetch media from elsewhere\.test"):
            tls_fetcher.fetch(f"https://{HOST}:{tls_port}/to/https://elsewhere.test/clip")

    @pytest.mark.usefixtures("trusted")
    def test_slow_response_is_aborted(self, tls_fetcher, tls_port):
        start = time.monotonic()
        with pytest.raises(MediaError, match="took too long"):
            replace(tls_fetcher, max_seconds=0.5).fetch(f"https://{HOST}:{tls_port}/drip")
        assert time.monotonic() - start < DRIP_SECONDS / 2

    def test_slow_handshake_is_aborted(self, fetcher):
        """The server announces a TLS record and sends it byte by byte."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            threading.Thread(target=self.drip, args=(listening,), daemon=True).start()
            start = time.monotonic()
            with pytest.raises(MediaError, match="took too long"):
                replace(fetcher, hosts=(f"{HOST}:{port}",), max_seconds=0.5).fetch(f"https://{HOST}:{port}/clip")
        assert time.monotonic() - start < DRIP_SECONDS / 2

    @staticmethod
    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # a handshake of 16,384 bytes
            for _ in range(2 * round(DRIP_SECONDS / 0.1)):
                connection.sendall(b"\0")
                time.sleep(0.05)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
def test_allowed_host_at_a_private_address(fetcher, port, address):
    inward = replace(fetcher, resolve=lambda host, port: ["8.8.8.8", address], is_allowed=is_public)
    with pytest.raises(MediaError, match="has an address that is not public"):
        inward.fetch(f"http://{HOST}:{port}/clip")


def test_any_host_at_the_default_port_and_the_words_of_another_program():
    words = {"program": "A program", "advice": "Download it", "permission": "allow the host"}
    anywhere = UrlFetcher(("*",), 1000, 2.0, 3, resolve=lambda host, port: ["10.0.0.1"], **words)
    with pytest.raises(MediaError, match=r"^media\.test has an address that is not public\. Download it\.$"):
        anywhere.fetch(f"http://{HOST}/clip")
    with pytest.raises(MediaError, match=r"^A program does not fetch media from .* Download it, or allow the host\.$"):
        anywhere.fetch(f"http://{HOST}:8080/clip")


@pytest.mark.parametrize(
    "url", ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://localhost/", "http://[::1]/"]
)
def test_spellings_of_the_loopback_address(url):
    host = url.removeprefix("http://").strip("/[]")
    with pytest.raises(MediaError, match=r"not public|cannot be resolved|does not fetch"):
        UrlFetcher((host, f"[{host}]"), 1000, 2.0, 3).fetch(url)


def test_host_is_resolved_once(fetcher, port):
    """A different address in a later DNS answer (DNS rebinding) has no effect."""
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
def test_allowed_hosts(pattern, url, is_allowed):
    def resolve(host, port):
        raise MediaError("allowed")

    with pytest.raises(MediaError) as caught:
        UrlFetcher((pattern,), 1000, 2.0, 3, resolve=resolve).fetch(url)
    assert (str(caught.value) == "allowed") == is_allowed


def test_disabled_by_default():
    with pytest.raises(MediaError, match="Send the file as a data: URL, or start the server with --allow-host HOST"):
        UrlFetcher((), 1000, 2.0, 3).fetch("https://example.org/clip.mp4")


def test_resolver():
    assert "127.0.0.1" in resolve_host("localhost", 80)
    with pytest.raises(MediaError, match=r"The host nowhere\.invalid cannot be resolved"):
        resolve_host("nowhere.invalid", 80)
