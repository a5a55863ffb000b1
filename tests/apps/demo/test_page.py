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
PATIENCE = 120_000
"""Milliseconds; for machines that are busy with other things."""
PRESS_PATIENCE = 5_000
"""Milliseconds in which a press of the Enter key that Gradio accepts has led to a request."""
NEVER_REACHED = 30_000
"""Tokens of an answer that is still being made when the next thing of a test happens."""
NUM_CHUNKS = 5
"""Pieces of a recording (Gradio takes one every 0.2 s) that make it long enough to have sound and pictures."""

NAMELESS = """
() => [...document.querySelectorAll('button, input, textarea, img')].filter(element => {
    if (!element.checkVisibility() || element.type === 'file') return false
    if (element.tagName === 'IMG') return !element.hasAttribute('alt')
    const labels = [...(element.labels || [])].map(label => label.innerText).join('')
    const names = ['aria-label', 'aria-labelledby', 'title'].map(name => element.getAttribute(name) || '').join('')
    return !(labels + names + (element.tagName === 'BUTTON' ? element.innerText : '')).trim()
}).map(element => element.outerHTML.slice(0, 200))
"""


COUNT_CHUNKS = """
    window.recordedChunks = 0
    const start = MediaRecorder.prototype.start
    MediaRecorder.prototype.start = function (...args) {
        this.addEventListener('dataavailable', event => { window.recordedChunks += event.data.size > 0 })
        return start.apply(this, args)
    }
"""
"""Chromium writes nothing in the first seconds of a recording on a busy machine."""


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
        page.add_init_script(COUNT_CHUNKS)
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(demo.url)
        box(page).wait_for()  # it has its name when the page's load event has been handled
        return page

    yield open_page
    for context in contexts:
        context.close()


def box(page):
    return page.get_by_label("Your question, with videos, images or sounds")


def expect(locator):
    """Assertions that wait: what a handler returns reaches the page's parts one after another."""
    return playwright.expect(locator)


def status(page, text: str):
    expect(page.locator("#vl-status")).to_contain_text(text)


def given(page):
    return page.locator("#vl-given")


def answers(page):
    return page.locator(".message.bot")


def upload(page, path: Path):
    attached = page.locator("#vl-question .thumbnail-item")
    before = attached.count()
    page.locator("#vl-question input[type=file]").set_input_files(path)
    expect(attached).to_have_count(before + 1)


def ask(page, question: str):
    box(page).fill(question)
    send(page)


def send(page):
    """Press Enter until it is taken: Gradio drops it while an answer is being sent, whose text may be there already."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        try:
            with page.expect_request(re.compile("/queue/join"), timeout=PRESS_PATIENCE):
                box(page).press("Enter")
            return
        except playwright.TimeoutError:
            continue
    raise AssertionError(f"The question in {box(page).input_value()!r} was not taken in {PATIENCE / 1000:g} s.")


def set_number(page, name: str, number: int):
    """Set a slider by its number, until its handle follows: Gradio drops what is written while the part is drawn."""
    field, handle = page.get_by_label(f"number input for {name}"), page.get_by_label(f"range slider for {name}")
    end = time.monotonic() + PATIENCE / 1000
    while True:
        field.fill(str(number))
        field.press("Tab")
        try:
            playwright.expect(handle).to_have_value(str(number), timeout=PRESS_PATIENCE)
            return
        except AssertionError:
            if time.monotonic() > end:
                raise


def set_longest(page, num_tokens: int):
    page.get_by_role("button", name="How answers are chosen").click()
    set_number(page, "Longest answer", num_tokens)


def wait_until(holds, seconds: float = PATIENCE / 1000):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def patience():
    playwright.expect.set_options(timeout=PATIENCE)
    yield
    playwright.expect.set_options(timeout=None)


def test_upload_and_ask_twice(opened, media, screenshots):
    page = opened()
    set_longest(page, 20)
    upload(page, media["first"])
    ask(page, "What do you see?")
    status(page, "20 tokens in")
    expect(given(page)).to_contain_text("1. first.mp4")
    expect(given(page)).to_contain_text("4 of 30 frames, 3.0 s")
    expect(given(page).get_by_text(re.compile(r"^\d+%$"))).to_have_count(4 + 3)  # four frames and three clips
    ask(page, "And what is heard?")
    expect(answers(page)).to_have_count(2)
    status(page, "20 tokens in")
    page.get_by_role("button", name="Record of the last answer").click()
    page.get_by_text("And what is heard?").nth(1).wait_for()
    page.screenshot(path=screenshots / "asked_twice.png", full_page=True)


def test_answer_is_streamed_and_stopped(opened, screenshots):
    page = opened()
    set_longest(page, NEVER_REACHED)
    ask(page, "What do you see?")
    answers(page).first.wait_for()
    early = answers(page).first.inner_text()
    wait_until(lambda: len(answers(page).first.inner_text()) > len(early) + 200)
    page.screenshot(path=screenshots / "answering.png")
    page.get_by_role("button", name="Stop the answer").click()
    status(page, "stopped by you")
    [num_tokens] = re.findall(r"(\d+) tokens", page.locator("#vl-status").inner_text())
    assert 20 < int(num_tokens) < NEVER_REACHED  # no piece of the tokenizer has ten characters
    expect(page.get_by_role("button", name="Stop the answer")).to_be_disabled()


def test_sound_off_and_on(opened, media):
    page = opened()
    set_longest(page, 5)
    upload(page, media["first"])
    ask(page, "What do you hear?")
    status(page, "5 tokens in")
    page.get_by_role("checkbox", name="Sound").uncheck()
    status(page, "Sound is off")
    expect(given(page)).to_contain_text("No sound: not asked for.")
    expect(answers(page)).to_have_count(0)
    ask(page, "What do you hear?")
    status(page, "5 tokens in")
    page.get_by_role("checkbox", name="Sound").check()
    status(page, "Sound is on")
    expect(given(page)).to_contain_text("mel spectrograms")


def test_a_broken_file_is_told_and_the_talk_goes_on(opened, media, screenshots):
    page = opened()
    set_longest(page, 5)
    upload(page, media["broken"])
    ask(page, "What do you see?")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^broken\.mp4 cannot be read as video or sound"))
    expect(box(page)).to_have_value("What do you see?")
    page.screenshot(path=screenshots / "broken_file.png")
    upload(page, media["silent"])
    send(page)
    status(page, "5 tokens in")
    expect(given(page)).to_contain_text("1. silent.mp4")


def test_a_file_that_ends_its_process_is_told_and_the_talk_goes_on(opened, media):
    page = opened()
    set_longest(page, 5)
    upload(page, media["bomb"])
    ask(page, "What do you see?")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^bomb\.png cannot be decoded: it needs more memory"))
    upload(page, media["silent"])
    send(page)
    status(page, "5 tokens in")
    expect(given(page)).to_contain_text("1. silent.mp4")


def test_several_media_and_settings(opened, media):
    page = opened()
    set_longest(page, 5)
    page.get_by_label("Drawn: another answer each time").check()
    page.get_by_label("Seed").fill("11")
    upload(page, media["silent"])
    upload(page, media["tone"])
    ask(page, "What is this?")
    status(page, "seed 11")
    expect(given(page)).to_contain_text("1. silent.mp4")
    expect(given(page)).to_contain_text("2. tone.wav")
    page.get_by_role("button", name="Forget what was said").click()
    status(page, "What was said is forgotten")
    expect(answers(page)).to_have_count(0)
    expect(given(page)).to_contain_text("2. tone.wav")
    page.get_by_role("button", name="Start over").click()
    status(page, "A new conversation")
    expect(given(page)).to_contain_text("Nothing yet")


def test_a_wrong_setting_is_told(opened):
    page = opened()
    page.get_by_role("button", name="How answers are chosen").click()
    page.get_by_label("Drawn: another answer each time").check()
    page.get_by_label("Seed").fill("many")
    ask(page, "What is this?")
    status(page, "Give a whole number, or leave it empty.")
    expect(box(page)).to_have_value("What is this?")


def test_beams(opened):
    page = opened()
    set_longest(page, 5)
    set_number(page, "Beams", 3)
    page.get_by_role("button", name="Silent star").click()
    status(page, "Shown.")
    expect(box(page)).not_to_be_empty()
    send(page)
    status(page, "5 tokens in")
    page.get_by_role("button", name="Record of the last answer").click()
    page.get_by_text("stop_reason").wait_for()


def test_camera(opened):
    """Chromium's own test picture and beep stand for a camera; the recording is read, shown and heard as any file."""
    page = opened(permissions=["camera", "microphone"])
    page.get_by_role("button", name="Record with the camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_role("button", name="start recording").click()
    page.wait_for_function(f"window.recordedChunks >= {NUM_CHUNKS}")
    with page.expect_response(re.compile("/upload")):
        page.locator(".button-wrap button").first.click()
    page.get_by_role("button", name="Clear").wait_for()
    expect(page.get_by_role("button", name="Trim")).to_have_count(0)
    page.get_by_role("button", name="Show the recording to the model").click()
    status(page, "Now ask a question about it.")
    expect(given(page)).to_contain_text("1. sample.webm")
    expect(given(page)).to_contain_text("mel spectrograms")


def test_two_browsers_at_once(opened, demo, media):
    wait_until(lambda: len(demo.visitors) == 0)  # those of the tests before are leaving
    pages = {name: opened() for name in ("first", "second")}
    for name, page in pages.items():
        set_longest(page, 100)
        upload(page, media[name])
    for name, page in pages.items():
        ask(page, f"What is in the {name}?")
    for name, page in pages.items():
        status(page, "100 tokens in")
        [other] = pages.keys() - {name}
        expect(given(page)).to_contain_text(f"1. {name}.mp4")
        assert other not in page.locator("body").inner_text()
    assert len(demo.visitors) == 2


def test_who_leaves_in_the_middle_leaves_nothing(opened, demo, media):
    wait_until(lambda: len(demo.visitors) == 0)
    page = opened()
    set_longest(page, NEVER_REACHED)
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


def test_what_was_attached_and_never_sent_goes_too(opened, demo, media):
    wait_until(lambda: not [*demo.uploads.rglob("second.mp4")])
    page = opened()
    upload(page, media["second"])
    [upload_path] = demo.uploads.rglob("second.mp4")
    wait_until(lambda: upload_path in demo.visitors._uploads._holders)
    page.context.close()
    wait_until(lambda: not upload_path.exists())


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
    expect(box(page)).not_to_be_empty()
    send(page)
    status(page, "20 tokens in")
    expect(given(page).get_by_text(re.compile(r"^\d+%$")).first).to_be_visible()
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
