"""Start and stop the server of the demo; the page with the shipped weights in a browser."""

import re
import socket
import sys

import pytest

import video_llama
from video_llama.apps.demo.serving import example_clips, running_demo
from video_llama.chat.loading import MINIATURE_PATH
from video_llama.errors import MissingExtraError

PATIENCE = 120_000
"""Milliseconds; long enough for a busy machine."""

SCREENSHOTS = {
    "demo": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "demo-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def miniature_url():
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    if not MINIATURE_PATH.is_dir():
        pytest.skip("the weights of the miniature are missing: video-llama miniature train")
    with running_demo(video_llama.load("miniature", device="cpu"), is_greedy=True) as running:
        yield running.url


def test_example_clips(repository):
    assert example_clips() == sorted((repository / "examples").glob("*.mp4")) != []


def test_uploads_are_deleted_when_the_server_stops(talkative):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    with running_demo(talkative) as running:
        (running.uploads / "upload.mp4").touch()
    assert not running.uploads.exists()


def test_port_in_use(talkative):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = running_demo(talkative, port=port)
        with pytest.raises(ValueError, match=rf"Port {port} of 127\.0\.0\.1 cannot be used.*--port"), demo:
            pass


def test_without_gradio(talkative, monkeypatch):
    for name in ("page", "handlers"):
        monkeypatch.delitem(sys.modules, f"video_llama.apps.demo.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    demo = running_demo(talkative)
    with pytest.raises(MissingExtraError, match=r"gradio is not installed.*video-llama\[demo\]"), demo:
        pass


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'|The copy keyword is deprecated")  # Gradio's pandas
@pytest.mark.parametrize("name", SCREENSHOTS)
def test_an_example_is_answered_correctly(chromium, miniature_url, repository, name):
    """The screenshots are those of docs/images: copy them from output/screenshots when the page changes."""
    folder = repository / "output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page = chromium.new_page(**SCREENSHOTS[name])
    page.set_default_timeout(PATIENCE)
    page.goto(miniature_url)
    page.get_by_role("button", name="Two shapes").click()
    page.get_by_text("Example loaded.").wait_for()
    page.wait_for_function("document.querySelector('#vl-chat video')?.ended")
    question = page.get_by_label("Your question")
    page.wait_for_function("box => box.value", arg=question.element_handle())  # set after the status line
    question.press("Enter")
    page.get_by_text(" tokens in ").wait_for()
    page.locator("#vl-input").get_by_text(re.compile(r"^\d+%$")).first.wait_for()
    answer = page.locator(".message.bot").inner_text()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=folder / f"{name}.png")
    page.close()
    assert answer == (
        "First a red circle appears, then a blue square appears. "
        "I hear a low hum, the sound of a circle, and then a buzz, the sound of a square."
    )


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'|The copy keyword is deprecated")  # Gradio's pandas
def test_a_timeline_describes_each_part(chromium, miniature_url, repository):
    """The screenshot is docs/images/demo-timeline.png."""
    folder = repository / "output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(miniature_url)
    page.get_by_role("button", name="Two shapes").click()
    page.get_by_text("Example loaded.").wait_for()
    question = page.get_by_label("Your question")
    page.wait_for_function("box => box.value", arg=question.element_handle())
    question.fill("What happens in the video?")
    page.get_by_role("button", name="Timeline of a long video").click()
    window, step = page.get_by_label("Window"), page.get_by_label("Step")
    for field, number in ((window, "2"), (step, "1")):
        field.fill(number)
        field.press("Tab")
    page.get_by_role("button", name="Make timeline").click()
    page.get_by_text("Timeline of 5 windows").wait_for()
    entries = page.locator("#vl-timeline .vl-entries button")
    texts = [text.split("\n")[-1] for text in entries.all_inner_texts()]
    page.wait_for_function("document.querySelector('#vl-timeline video')?.duration > 5")
    entries.last.click()
    page.wait_for_function("document.querySelector('#vl-timeline video')?.currentTime > 3.5")
    page.get_by_role("button", name="Timeline of a long video").locator("xpath=..").screenshot(
        path=folder / "demo-timeline.png"
    )
    page.close()
    assert "red circle" in texts[0]
    assert "blue square" in texts[-1]
