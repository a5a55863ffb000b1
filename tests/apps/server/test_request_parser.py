"""Requests of official clients, and errors that name the faulty part."""

import json

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.apps.server.conftest import CHAT_PATH, PATIENCE
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.json_body import JsonLimits
from video_llama.apps.server.request_parser import location_of, parse_request

QUESTION = {"role": "user", "content": "What do you see?"}
LIMITS = JsonLimits(20_000, 32)
OPENAI_PARAMETERS = set(openai.resources.chat.Completions.create.__annotations__) - {
    "self", "return", "messages", "model", "extra_headers", "extra_query", "extra_body", "timeout",
}  # fmt: skip


def parsed(**fields):
    body = json.dumps({"model": "tiny", "messages": [QUESTION], **fields}).encode()
    return parse_request(bytearray(body), LIMITS)


@pytest.mark.parametrize("name", sorted(OPENAI_PARAMETERS | {"video_llama", "unknown"}))
def test_null_is_not_given(name):
    assert parsed(**{name: None}) == parsed()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("functions", []),
        ("logit_bias", {}),
        ("logprobs", False),
        ("top_logprobs", 0),
        ("stop", ""),
        ("stop", []),
        ("tool_choice", "none"),
        ("tool_choice", "auto"),
        ("parallel_tool_calls", True),
        ("modalities", ["text"]),
        ("response_format", {"type": "text"}),
        ("service_tier", "auto"),
        ("metadata", {}),
        ("user", ""),
        ("frequency_penalty", 0.0),
        ("stream_options", {"include_usage": True, "include_obfuscation": False}),
    ],
)
def test_values_that_ask_for_nothing_are_accepted(name, value):
    assert not isinstance(parsed(**{name: value}), ApiError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("logit_bias", {"1": 5}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {"user_location": {}}),
        ("service_tier", "priority"),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("modalities", ["audio"]),
        ("response_format", {"type": "json_object"}),
        ("frequency_penalty", 1),
        ("unknown", []),
    ],
)
def test_values_that_ask_for_something_are_refused_by_name(name, value):
    error = parsed(**{name: value})
    assert isinstance(error, ApiError)
    assert error.param.startswith(name)
    assert str(error).startswith(name)


RETURNED = {
    "null": {"content": None},
    "no content": {},
    "empty": {"content": ""},
    "empty list": {"content": []},
    "refusal": {"content": [{"type": "refusal", "refusal": "No."}]},
    "nulls": {"content": "A.", "refusal": None, "audio": None, "annotations": None, "tool_calls": None},
    "empty lists": {"content": "A.", "annotations": [], "tool_calls": [], "function_call": None},
    "reasoning": {"content": "A.", "reasoning_content": "Because.", "reasoning": "Because.", "refusal": "No."},
    "sources": {"content": "A.", "annotations": [{"type": "url_citation"}], "audio": {"id": "audio_1"}},
}


@pytest.mark.parametrize("name", RETURNED)
def test_answers_are_accepted_as_clients_return_them(name):
    assert not isinstance(parsed(messages=[QUESTION, {"role": "assistant", **RETURNED[name]}, QUESTION]), ApiError)


def test_tool_calls_are_refused():
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    assert parsed(messages=[QUESTION, message, QUESTION]).param == "messages[1].tool_calls"


def test_answer_of_the_official_client_can_be_returned(client):
    first: ChatCompletion = client.chat.completions.create(model="tiny", messages=[QUESTION], max_tokens=4)
    dumped = [first.choices[0].message, first.choices[0].message.model_dump(), first.choices[0].message.to_dict()]
    for message in dumped:
        reply = client.chat.completions.create(model="tiny", messages=[QUESTION, message, QUESTION], max_tokens=4)
        assert reply.choices


@pytest.mark.parametrize(
    ("content", "location"),
    [
        (3, "content"),
        ([], "content"),
        (["text"], "content[0]"),
        ([{}], "content[0]"),
        ([{"type": "text", "text": "a"}, {"type": "file"}], "content[1]"),
        ([{"type": "text"}], "content[0].text"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}], "content[1].image_url"),
        ([{"type": "image_url", "image_url": "https://a"}], "content[0].image_url"),
        ([{"type": "image_url", "image_url": {}}], "content[0].image_url.url"),
        ([{"type": "video_url", "video_url": {"url": ""}}], "content[0].video_url.url"),
        ([{"type": "audio_url", "audio_url": {"url": "data:,", "detail": "low"}}], "content[0].audio_url.detail"),
        ([{"type": "input_audio", "input_audio": {"format": "wav"}}], "content[0].input_audio.data"),
        ([{"type": "text", "text": "\ud800"}], "content[0].text"),
        ("a\udfff", "content"),
    ],
)
def test_errors_in_content_name_the_part(content, location):
    error = parsed(messages=[QUESTION, {"role": "user", "content": content}])
    assert error.param == f"messages[1].{location}"
    assert str(error).startswith(f"messages[1].{location}: ")
    assert "valid string" not in str(error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "character 1 is U+D83D, half of a surrogate pair"),
        ({"messages": [QUESTION], "model": "\ud800"}, "model: a text contains half of a surrogate pair"),
        ({"messages": [QUESTION], "\ud800": 1}, "a text contains half of a surrogate pair"),
        ({"messages": [QUESTION], "stop": "\ud800", "n": 0}, "stop: a text contains half of a surrogate pair"),
    ],
)
def test_surrogates(server, body, message):
    content = json.dumps({"model": "tiny", **body})
    reply = httpx.post(f"{server.url}{CHAT_PATH}", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["code"] != "context_length_exceeded"
    assert message in reply.json()["error"]["message"]


def test_locations():
    assert (
        location_of(("messages", 0, "<user>", "content", "<list>", 1, "<text>", "text"))
        == "messages[0].content[1].text"
    )
    assert location_of(("<user>",), "extra_forbidden") == "<user>"
    assert location_of(("k" * 1000,), "extra_forbidden") == "k" * 64 + "..."


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_content_type(server, content_type):
    """A page of another site can send these types without asking the server (CORS)."""
    body = json.dumps({"model": "tiny", "messages": [QUESTION]})
    reply = httpx.post(f"{server.url}{CHAT_PATH}", content=body, headers={"Content-Type": content_type})
    assert reply.status_code == 400
    assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_large_body_does_not_block_other_requests(server):
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": [{}] * 1024}] * 1024}).encode()
    reply = httpx.post(
        f"{server.url}{CHAT_PATH}", content=body, headers={"Content-Type": "application/json"}, timeout=PATIENCE
    )
    assert reply.status_code == 400
    assert "more than 20,000 keys and list items" in reply.json()["error"]["message"]
