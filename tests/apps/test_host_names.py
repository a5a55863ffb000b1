"""Names of this machine in Host headers."""

import pytest

from video_llama.apps.host_names import accepts_host, is_loopback


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "example.org", "localhost.example.org", "10.0.0.1", "127.0.0.1.nip.io"]
)
def test_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("localhost:8000", True),
        ("[::1]:8000", True),
        ("127.0.0.1", True),
        ("Video.Example.org:443", True),
        ("example.org", False),
        ("localhost@example.org", False),
        ("localhost.example.org:8000", False),
        ("[", False),
        ("", False),
    ],
)
def test_host_header(header, is_accepted):
    assert accepts_host(header, ["video.example.org"]) is is_accepted
