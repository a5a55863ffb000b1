"""Response schemas. tests/apps/server/test_protocol.py compares every response with them."""

from video_llama.apps.server.replies import Usage


def test_usage():
    usage = Usage.of(prompt=10, generated=3, cached=4)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 3, 13)
    assert usage.prompt_tokens_details.cached_tokens == 4
