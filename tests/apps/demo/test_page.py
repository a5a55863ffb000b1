"""The page in a real browser: what visitors do and see, and that their files are deleted afterwards.

Screenshots are written to output/screenshots.
"""

import re
import time
from pathlib import Path

import pytest

from video_llama.apps.demo.visitors import Visitor

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # Gradio uses deprecated features of pandas.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'|The copy keyword is deprecated"),
]

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 120_000
"""Milliseconds; long enough for a busy machine."""
PRESS_PATIENCE = 5_000
"""Milliseconds after which a press of Enter without a request was ignored by Gradio."""
NEVER_REACHED = 30_000
"""Maximum number of tokens of an answer that is still running when the test goes on."""
NUM_CHUNKS = 5
"""Chunks of a recording (one every 0.2 s) after which it contains audio and frames."""

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
"""On a busy machine, Chromium writes no chunks in the first seconds of a recording."""


@pytest.fixture(scope="module")
def screenshots(repository) -> Path:
    folder = repository / "output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(chromium, demo):
    """Open the page as a new visitor; ``page.requested`` is the list of requested URLs."""
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
        box(page).wait_for()  # the label is set by the load event of the page
        return page

    yield open_page
    for context in contexts:
        context.close()


def box(page):
    return page.get_by_label("Your question")


def expect(locator):
    """Assertions that wait: the components are updated one after another."""
    return playwright.expect(locator)


def status(page, text: str):
    expect(page.locator("#vl-status")).to_contain_text(text)


def model_input(page):
    return page.locator("#vl-input")


def stop_button(page):
    return page.get_by_role("button", name="Stop", exact=True)


def is_grey(locator) -> bool:
    colour = locator.evaluate("element => getComputedStyle(element).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return max(red, green, blue) - min(red, green, blue) < 16


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
    """Press Enter until it is accepted: Gradio ignores it until the previous answer is complete."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        try:
            with page.expect_request(re.compile("/queue/join"), timeout=PRESS_PATIENCE):
                box(page).press("Enter")
            return
        except playwright.TimeoutError:
            continue
    raise AssertionError(f"The question in {box(page).input_value()!r} was not accepted in {PATIENCE / 1000:g} s.")


def set_number(page, name: str, number: int):
    """Set a slider by its number field until its handle follows: Gradio ignores input during rendering."""
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
    page.get_by_role("button", name="Settings").click()
    set_number(page, "Maximum length", num_tokens)


def wait_until(holds, seconds: float = PATIENCE / 1000):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "timeout"
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
    expect(model_input(page)).to_contain_text("1. first.mp4")
    expect(model_input(page)).to_contain_text("4 of 30 frames (3.0 s)")
    expect(model_input(page).get_by_text(re.compile(r"^\d+%$"))).to_have_count(4 + 3)  # four frames and three clips
    ask(page, "What do you hear?")
    expect(answers(page)).to_have_count(2)
    page.get_by_role("button", name="Details of the last answer").click()
    page.get_by_text("What do you hear?").nth(1).wait_for()
    page.screenshot(path=screenshots / "asked_twice.png", full_page=True)


def test_answer_is_streamed_and_stopped(opened, screenshots):
    page = opened()
    expect(stop_button(page)).to_be_disabled()
    wait_until(lambda: is_grey(stop_button(page)))
    set_longest(page, NEVER_REACHED)
    ask(page, "What do you see?")
    answers(page).first.wait_for()
    expect(stop_button(page)).to_be_enabled()
    wait_until(lambda: not is_grey(stop_button(page)))  # the colour changes gradually
    early = answers(page).first.inner_text()
    wait_until(lambda: len(answers(page).first.inner_text()) > len(early) + 200)
    page.screenshot(path=screenshots / "answering.png")
    stop_button(page).click()
    status(page, "; stopped")
    [num_tokens] = re.findall(r"(\d+) tokens", page.locator("#vl-status").inner_text())
    assert 20 < int(num_tokens) < NEVER_REACHED  # no piece of the tokenizer has ten characters
    expect(stop_button(page)).to_be_disabled()
    wait_until(lambda: is_grey(stop_button(page)))


def test_audio_off_and_on(opened, media):
    page = opened()
    set_longest(page, 5)
    upload(page, media["first"])
    ask(page, "What do you hear?")
    status(page, "5 tokens in")
    page.get_by_role("checkbox", name="Use audio").uncheck()
    status(page, "Audio is off")
    expect(model_input(page)).to_contain_text("No audio:")
    expect(answers(page)).to_have_count(0)
    ask(page, "What do you hear?")
    status(page, "5 tokens in")
    page.get_by_role("checkbox", name="Use audio").check()
    status(page, "Audio is on")
    expect(model_input(page)).to_contain_text("Mel spectrograms")


def test_a_broken_file_is_reported(opened, media, screenshots):
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
    expect(model_input(page)).to_contain_text("1. silent.mp4")


def test_a_file_that_needs_too_much_memory_is_reported(opened, media):
    page = opened()
    set_longest(page, 5)
    upload(page, media["bomb"])
    ask(page, "What do you see?")
    expect(page.get_by_role("alert")).to_have_text(re.compile(r"^bomb\.png cannot be decoded: it requires more memory"))
    upload(page, media["silent"])
    send(page)
    status(page, "5 tokens in")
    expect(model_input(page)).to_contain_text("1. silent.mp4")


def test_several_media_and_settings(opened, media):
    page = opened()
    set_longest(page, 5)
    page.get_by_label("Sampling").check()
    page.get_by_label("Seed").fill("11")
    upload(page, media["silent"])
    upload(page, media["tone"])
    ask(page, "What is this?")
    status(page, "seed 11")
    expect(model_input(page)).to_contain_text("1. silent.mp4")
    expect(model_input(page)).to_contain_text("2. tone.wav")
    page.get_by_role("button", name="Clear chat").click()
    status(page, "Chat cleared")
    expect(answers(page)).to_have_count(0)
    expect(model_input(page)).to_contain_text("2. tone.wav")
    page.get_by_role("button", name="Remove media and start over").click()
    status(page, "Chat and media removed")
    expect(model_input(page)).to_contain_text("appear here")


def test_an_invalid_setting_is_reported(opened):
    page = opened()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Sampling").check()
    page.get_by_label("Seed").fill("many")
    ask(page, "What is this?")
    status(page, "Enter an integer, or leave the field empty.")
    expect(box(page)).to_have_value("What is this?")


def test_beams(opened):
    page = opened()
    set_longest(page, 5)
    set_number(page, "Beams", 3)
    page.get_by_role("button", name="Silent star").click()
    status(page, "Example loaded.")
    expect(box(page)).not_to_be_empty()
    send(page)
    status(page, "5 tokens in")
    page.get_by_role("button", name="Details of the last answer").click()
    page.get_by_text("stop_reason").wait_for()


def test_webcam(opened):
    """The webcam is the test signal of Chromium; its recording is used like an uploaded file."""
    page = opened(permissions=["camera", "microphone"])
    page.get_by_role("button", name="Record with the webcam").click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_role("button", name="start recording").click()
    page.wait_for_function(f"window.recordedChunks >= {NUM_CHUNKS}")
    with page.expect_response(re.compile("/upload")):
        page.locator(".button-wrap button").first.click()
    page.get_by_role("button", name="Clear", exact=True).wait_for()
    expect(page.get_by_role("button", name="Trim")).to_have_count(0)
    page.get_by_role("button", name="Use this recording").click()
    status(page, "Ask a question about it.")
    expect(model_input(page)).to_contain_text("1. sample.webm")
    expect(model_input(page)).to_contain_text("Mel spectrograms")


def test_two_browsers_at_once(opened, demo, media):
    wait_until(lambda: len(demo.visitors) == 0)  # the visitors of previous tests are leaving
    pages = {name: opened() for name in ("first", "second")}
    for name, page in pages.items():
        set_longest(page, 100)
        upload(page, media[name])
    for name, page in pages.items():
        ask(page, f"What is in the {name}?")
    for name, page in pages.items():
        status(page, "100 tokens in")
        [other] = pages.keys() - {name}
        expect(model_input(page)).to_contain_text(f"1. {name}.mp4")
        assert other not in page.locator("body").inner_text()
    assert len(demo.visitors) == 2


def test_leaving_during_an_answer_deletes_everything(opened, demo, media):
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
    ask(page, "What do you see?")
    status(page, "5 tokens in")


def test_files_attached_and_not_sent_are_deleted(opened, demo, media):
    wait_until(lambda: not [*demo.uploads.rglob("second.mp4")])
    page = opened()
    upload(page, media["second"])
    [upload_path] = demo.uploads.rglob("second.mp4")
    wait_until(lambda: upload_path in demo.visitors._uploads._holders)
    page.context.close()
    wait_until(lambda: not upload_path.exists())


def test_an_unexpected_error_is_reported(opened, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Visitor, "answer", fail)
    page = opened()
    ask(page, "What do you see?")
    expect(page.get_by_role("alert")).to_have_text(re.compile("^Internal error"))
    expect(stop_button(page)).to_be_disabled()


def test_an_example_plays_on_click(opened, media):
    page = opened()
    upload(page, media["silent"])
    send(page)
    status(page, "Ask a question about it.")
    page.get_by_role("button", name="Two shapes").click()
    expect(box(page)).to_have_value("What do you see and hear?")
    expect(model_input(page)).to_contain_text("1. two_shapes.mp4")  # the example replaces the conversation
    page.wait_for_function("document.querySelector('#vl-chat video')?.currentTime > 0.2")
    expect(page.locator("#vl-chat video")).to_have_count(1)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE, {"width": 1280, "height": 480}], ids=["desktop", "phone", "low"])
def test_media_in_the_chat_are_no_taller_than_a_third_of_the_window(opened, media, viewport):
    page = opened(viewport=viewport)
    for name in ("silent", "image"):
        upload(page, media[name])
    send(page)
    status(page, "Ask a question about it.")
    page.wait_for_function("document.querySelector('#vl-chat video')?.videoHeight > 0")
    page.wait_for_function("document.querySelector('#vl-chat .message img')?.naturalHeight > 0")
    heights = page.locator("#vl-chat video, #vl-chat .message img").evaluate_all(
        "elements => elements.map(element => element.getBoundingClientRect().height)"
    )
    assert len(heights) == 2
    assert all(0 < height <= viewport["height"] / 3 for height in heights)


@pytest.mark.parametrize(
    ("look", "settings"),
    [
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": PHONE, "is_mobile": True, "has_touch": True}),
    ],
)
def test_appearance(opened, demo, screenshots, look, settings):
    """No request or link to another host, no horizontal scrolling, every control has an accessible name."""
    page = opened(**settings)
    set_longest(page, 20)
    page.get_by_role("button", name="Two shapes").click()
    status(page, "Example loaded.")
    expect(box(page)).not_to_be_empty()
    send(page)
    status(page, "20 tokens in")
    expect(model_input(page).get_by_text(re.compile(r"^\d+%$")).first).to_be_visible()
    page.screenshot(path=screenshots / f"{look}.png", full_page=True)
    outside = [url for url in page.requested if not url.startswith((demo.url, "data:", "blob:"))]
    assert outside == []
    assert page.eval_on_selector_all("a[href^=http]", "links => links.map(link => link.href)") == []
    assert page.get_by_role("button", name="Share").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(NAMELESS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128
    assert is_dark == (look == "dark")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_timeline(opened, media, screenshots, viewport):
    """A click on an entry, or on its part of the bar, plays the video from there and marks the entry."""
    page = opened(viewport=viewport)
    set_longest(page, 6)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Timeline of a long video").click()
    make, shown = page.get_by_role("button", name="Make timeline"), page.locator("#vl-timeline")
    make.click()
    status(page, "The conversation has no video or audio file.")
    page.get_by_role("button", name="Two shapes").click()
    status(page, "Example loaded.")
    expect(box(page)).not_to_be_empty()
    page.get_by_label("Window").fill("1")
    page.get_by_label("Window").press("Tab")
    make.click()
    status(page, "Timeline of 6 windows")
    entries = shown.get_by_role("button")
    assert entries.count() >= 2
    page.wait_for_function("document.querySelector('#vl-timeline video')?.duration > 5")
    last = entries.last
    start = float(last.get_attribute("data-start"))
    last.click()
    page.wait_for_function(f"document.querySelector('#vl-timeline video').currentTime >= {start}")
    expect(last).to_have_attribute("aria-current", "true")
    page.wait_for_function("!document.querySelector('#vl-timeline video').seeking")
    page.screenshot(path=screenshots / f"timeline-{viewport['width']}.png", full_page=True)
    page.locator(".vl-part").first.click()
    page.wait_for_function(f"document.querySelector('#vl-timeline video').currentTime < {start}")
    expect(entries.first).to_have_attribute("aria-current", "true")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(NAMELESS) == []
    page.get_by_role("button", name="Remove media and start over").click()
    expect(shown.locator("video")).to_have_count(0)
