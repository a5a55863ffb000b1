"""``video-llama demo``: the page is served until the process is stopped; errors name the remedy."""

import socket
import sys

import pytest

from video_llama.errors import MissingExtraError


@pytest.mark.slow
def test_page(page_of, model_path):
    page = page_of("-m", "video_llama", "demo", "--model", model_path, "--device", "cpu", "--only-vision")
    assert "Random weights of a test" in page
    assert "listens to it" not in page


def test_port_in_use(assistant):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    from video_llama.apps.demo.serving import running_demo

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = running_demo(assistant, port=port)
        with pytest.raises(ValueError, match=rf"Port {port} of 127\.0\.0\.1 cannot be used.*--port"), demo:
            pass


def test_without_gradio(assistant, monkeypatch):
    from video_llama.apps.demo.serving import running_demo

    for name in [name for name in sys.modules if name.startswith("video_llama.apps.demo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        pytest.raises(MissingExtraError, match=r"gradio is not installed.*video-llama\[demo\]"),
        running_demo(assistant),
    ):
        pass
