"""``video-llama demo``: the page is served until the process is stopped."""

import pytest


@pytest.mark.slow
def test_page(page_of, model_path):
    page = page_of("-m", "video_llama", "demo", "--model", model_path, "--device", "cpu", "--only-vision")
    assert "Random weights of a test" in page
    assert "Ask questions about videos and images." in page
