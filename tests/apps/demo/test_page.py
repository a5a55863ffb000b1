"""The page in a real browser: what a visitor does, what the visitor sees, and what stays behind afterwards.

Screenshots are kept in output/screenshots, for people to look at.
"""

import re
import time
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # Gradio's own statistics, by ways that pandas will drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'|The copy keyword is deprecated"),
]

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 60_000
"""Milliseconds; for machines that are busy with other things."""

NAMELESS = """
() => [...document.querySelectorAll('button, input, textarea, img')].filter(element => {
    if (!element.checkVisibility() || element.type === 'file') return false
    if (element.tagName === 'IMG') return !element.hasAttribute('alt')
    const labels = [...(element.labels || [])].map(label => label.innerText).join('')
    const names = ['aria-label', 'aria-labelledby', 'title'].map(name => element.getAttribute(name) || '').join('')
    return !(labels + names + (element.tagName === 'BUTTON' ? element.innerText : '')).trim()
}).map(element => element.outerHTML.slice(0, 200))
"""


@pytest.fixture(scope="module")
def screenshots(repository) -> Path:
    folder = repository / "output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(chromium, demo):
    """Opens the page as a visitor of its own, with everything that it asks the network for in ``page.requested``."""
    contexts = []

    def open_page(**settings):
        context = chromium.new_context(**{"viewport": DESKTOP, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(demo.url)
        page.get_by_role("button", name="Two shapes").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def box(page):
    return page.get_by_label("Your question, with videos, images or sounds")


def status(page, text: str):
    """Wait until the status line says it; else the failure tells what it says."""
    line = page.locator("#vl-status")
    try:
        line.get_by_text(text).wait_for()
    except playwright.TimeoutError as error:
        raise AssertionError(f"{text!r} was awaited, the status line says {line.inner_text()!r}") from error


def upload(page, path: Path):
    attached = page.locator("#vl-question .thumbnail-item")
    before = attached.count()
    page.locator("#vl-question input[type=file]").set_input_files(path)
    wait_until(lambda: attached.count() == before + 1)


def ask(page, question: str):
    box(page).fill(question)
    box(page).press("Enter")


def set_longest(page, num_tokens: int):
    page.get_by_role("button", name="How answers are chosen").click()
    number = page.get_by_label("number input for Longest answer")
    number.fill(str(num_tokens))
    number.press("Tab")


def given(page) -> str:
    return page.locator("#vl-given").inner_text()


def answers(page):
    return page.locator(".message.bot")


def wait_until(holds, seconds: float = PATIENCE / 1000):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.05)


def test_upload_and_ask_twice(opened, media, screenshots):
    page = opened()
    set_longest(page, 20)
    upload(page, media["first"])
    ask(page, "What do you see?")
    status(page, "20 tokens in")
    assert "1. first.mp4" in given(page)
    assert "4 of 30 frames, 3.0 s" in given(page)
    assert given(page).count("%") == 4 + 3  # four frames and three clips
    ask(page, "And what is heard?")
    wait_until(lambda: answers(page).count() == 2)
    status(page, "20 tokens in")
    page.get_by_role("button", name="Record of the last answer").click()
    page.get_by_text("And what is heard?").nth(1).wait_for()
    page.screenshot(path=screenshots / "asked_twice.png", full_page=True)


def test_answer_is_streamed_and_stopped(opened, screenshots):
    page = opened()
    set_longest(page, 4000)
    ask(page, "What do you see?")
    answers(page).first.wait_for()
    early = answers(page).first.inner_text()
    wait_until(lambda: len(answers(page).first.inner_text()) > len(early) + 20)
    page.screenshot(path=screenshots / "answering.png")
    page.get_by_role("button", name="Stop the answer").click()
    status(page, "stopped by you")
    [num_tokens] = re.findall(r"(\d+) tokens", page.locator("#vl-status").inner_text())
    assert 20 < int(num_tokens) < 4000
    assert page.get_by_role("button", name="Stop the answer").is_disabled()


def test_sound_off_and_on(opened, media):
    page = opened()
    set_longest(page, 5)
    upload(page, media["first"])
    ask(page, "What do you hear?")
    status(page, "5 tokens in")
    page.get_by_role("checkbox", name="Sound").uncheck()
    status(page, "Sound is off")
    assert "No sound: not asked for." in given(page)
    assert answers(page).count() == 0
    ask(page, "What do you hear?")
    status(page, "5 tokens in")
    page.get_by_role("checkbox", name="Sound").check()
    status(page, "Sound is on")
    assert "mel spectrograms" in given(page)


def test_a_broken_file_is_told_and_the_talk_goes_on(opened, media, screenshots):
    page = opened()
    set_longest(page, 5)
    upload(page, media["broken"])
    ask(page, "What do you see?")
    problem = page.get_by_role("alert")
    problem.wait_for()
    assert problem.inner_text().startswith("broken.mp4 cannot be read as video or sound")
    assert box(page).input_value() == "What do you see?"
    page.screenshot(path=screenshots / "broken_file.png")
    upload(page, media["silent"])
    box(page).press("Enter")
    status(page, "5 tokens in")
    assert "1. silent.mp4" in given(page)


def test_several_media_and_settings(opened, media):
    page = opened()
    set_longest(page, 5)
    page.get_by_label("Drawn: another answer each time").check()
    page.get_by_label("Seed").fill("11")
    upload(page, media["silent"])
    upload(page, media["tone"])
    ask(page, "What is this?")
    status(page, "seed 11")
    assert "1. silent.mp4" in given(page)
    assert "2. tone.wav" in given(page)
    page.get_by_role("button", name="Forget what was said").click()
    status(page, "What was said is forgotten")
    assert answers(page).count() == 0
    assert "2. tone.wav" in given(page)
    page.get_by_role("button", name="Start over").click()
    status(page, "A new conversation")
    assert "Nothing yet" in given(page)


def test_a_wrong_setting_is_told(opened):
    page = opened()
    page.get_by_role("button", name="How answers are chosen").click()
    page.get_by_label("Drawn: another answer each time").check()
    page.get_by_label("Seed").fill("many")
    ask(page, "What is this?")
    page.get_by_text("Give a whole number, or leave it empty.").wait_for()
    assert box(page).input_value() == "What is this?"


def test_beams(opened):
    page = opened()
    set_longest(page, 5)
    number = page.get_by_label("number input for Beams")
    number.fill("3")
    number.press("Tab")
    page.get_by_role("button", name="Silent star").click()
    status(page, "Shown.")
    box(page).press("Enter")
    status(page, " tokens in")
    page.get_by_role("button", name="Record of the last answer").click()
    page.get_by_text("stop_reason").wait_for()


def test_camera(opened):
    """Chromium's own test picture and beep stand for a camera; the recording is read, shown and heard as any file."""
    page = opened(permissions=["camera", "microphone"])
    page.get_by_role("button", name="Record with the camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_role("button", name="start recording").click()
    page.wait_for_timeout(5000)  # on a busy machine Chromium writes nothing in the first seconds
    with page.expect_response(re.compile("/upload")):
        page.locator(".button-wrap button").first.click()
    page.get_by_role("button", name="Clear").wait_for()
    assert page.get_by_role("button", name="Trim").count() == 0
    page.get_by_role("button", name="Show the recording to the model").click()
    status(page, "Now ask a question about it.")
    assert "1. sample.webm" in given(page)
    assert "mel spectrograms" in given(page)


def test_two_browsers_at_once(opened, demo, media):
    pages = {name: opened() for name in ("first", "second")}
    for name, page in pages.items():
        set_longest(page, 300)
        upload(page, media[name])
    for name, page in pages.items():
        ask(page, f"What is in the {name}?")
    for name, page in pages.items():
        status(page, "tokens in")
        [other] = pages.keys() - {name}
        assert f"1. {name}.mp4" in given(page)
        assert other not in page.locator("body").inner_text()
    assert len(demo.visitors) == 2


def test_who_leaves_in_the_middle_leaves_nothing(opened, demo, media):
    page = opened()
    set_longest(page, 4000)
    upload(page, media["second"])
    ask(page, "What do you see?")
    answers(page).first.wait_for()
    [upload_path] = demo.uploads.rglob("second.mp4")
    page.context.close()
    wait_until(lambda: len(demo.visitors) == 0 and not upload_path.exists())
    page = opened()
    set_longest(page, 5)
    ask(page, "Is the model free?")
    status(page, "5 tokens in")


@pytest.mark.parametrize(
    ("look", "settings"),
    [
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": PHONE, "is_mobile": True, "has_touch": True}),
    ],
)
def test_looks(opened, demo, screenshots, look, settings):
    """Nothing comes from elsewhere, nothing is wider than the window, everything to be pressed has a name."""
    page = opened(**settings)
    set_longest(page, 20)
    page.get_by_role("button", name="Two shapes").click()
    status(page, "Shown.")
    wait_until(lambda: box(page).input_value())  # the box is filled after the status line
    box(page).press("Enter")
    status(page, " tokens in")
    page.screenshot(path=screenshots / f"{look}.png", full_page=True)
    outside = [url for url in page.requested if not url.startswith((demo.url, "data:", "blob:"))]
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(NAMELESS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128
    assert is_dark == (look == "dark")


def test_links_lead_nowhere_else(opened):
    page = opened()
    assert page.eval_on_selector_all("a[href^=http]", "links => links.map(link => link.href)") == []
    assert page.get_by_role("button", name="Share").count() == 0
