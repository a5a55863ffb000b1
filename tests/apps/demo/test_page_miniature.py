"""The page with the shipped weights, as users meet it; skipped where they are not there."""

import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # Gradio's own statistics, by ways that pandas will drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'|The copy keyword is deprecated"),
]

PATIENCE = 120_000
"""Milliseconds; for machines that are busy with other things."""

LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def url():
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    import video_llama
    from video_llama.apps.demo.serving import running_demo
    from video_llama.chat.loading import MINIATURE_PATH

    if not MINIATURE_PATH.is_dir():
        pytest.skip("the miniature's weights are not there: video-llama miniature train")
    with running_demo(video_llama.load("miniature", device="cpu"), is_greedy=True) as running:
        yield running.url


@pytest.mark.parametrize("look", LOOKS)
def test_an_example_is_answered(chromium, url, repository, look):
    folder = repository / "output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page = chromium.new_page(**LOOKS[look])
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.get_by_role("button", name="Two shapes").click()
    page.get_by_text("Shown. Send the question").wait_for()
    question = page.get_by_label("Your question, with videos, images or sounds")
    page.wait_for_function("box => box.value", arg=question.element_handle())  # filled after the status line
    question.press("Enter")
    page.get_by_text(" tokens in ").wait_for()
    answer = page.locator(".message.bot").inner_text()
    page.screenshot(path=folder / f"miniature_{look}.png", full_page=True)
    page.close()
    assert len(answer.split()) > 2
