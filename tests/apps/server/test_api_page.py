"""The ``/docs`` page: every operation and schema, without scripts or external resources."""

import pytest

from video_llama.apps.server.api_page import api_page
from video_llama.apps.server.app import build_app
from video_llama.apps.server.settings import ServerSettings


@pytest.fixture(scope="module")
def description(assistant):
    return build_app(assistant, ServerSettings()).openapi()


def test_operations_and_schemas(description):
    page = api_page(description)
    assert "POST /v1/chat/completions" in page
    for name in description["components"]["schemas"]:
        assert f'id="{name}"' in page
    assert 'href="#ChatRequest"' in page


def test_no_external_resources(description):
    page = api_page(description)
    assert "://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page


def test_text_is_escaped():
    description = {
        "info": {"title": "<b>", "version": "1", "description": "a & b"},
        "paths": {},
        "components": {"schemas": {"<i>": {"description": "<script>"}}},
    }
    page = api_page(description)
    assert "<b>" not in page
    assert "<script>" not in page
    assert "a &amp; b" in page
