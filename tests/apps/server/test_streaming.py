"""Response bodies: events of a stream, finish reasons, and the record."""

import pytest

from tests.apps.server.conftest import ask
from video_llama.processors.medium import NOT_REQUESTED

QUESTION = "What do you see?"


def test_stream(assistant, client, clips, urls):
    options = {"include_usage": True}
    with client.chat.completions.create(
        model="tiny", messages=ask(QUESTION, video=urls["video"]), max_tokens=12, stream=True, stream_options=options
    ) as stream:
        *chunks, last = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(pieces) == assistant.chat(clips["video"]).ask(QUESTION, max_new_tokens=12).text
    assert sum(bool(piece) for piece in pieces) > 1
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert last.choices == []
    assert last.usage.completion_tokens > 0


def test_record_on_request(client, urls):
    messages = ask(QUESTION, video=urls["video"])
    reply = client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=4,
        extra_body={"video_llama": {"record": True, "times": [0.5, 1.5], "no_audio": True, "top_k": 5}},
        seed=7,
    )
    [record] = reply.video_llama["records"]
    assert record["media"][0]["source"] == "messages[0].content[1]"
    assert record["media"][0]["frames"]["indices"] == [5, 15]
    assert record["modalities"] == {"video": "used", "audio": NOT_REQUESTED}
    assert record["decoding"]["seed"] == 7
    assert "path" not in record["weights"]
    assert "noise" in reply.video_llama["notice"]
    assert record["warnings"] == []
    plain = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert "video_llama" not in plain.model_extra


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string(client, urls, stream):
    messages = ask(QUESTION, video=urls["video"])
    whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=40).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    given = dict(model="tiny", messages=messages, max_tokens=40, stop=[stop, "never generated"])
    if stream:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**given, stream=True)]
        text, reason = "".join(chunk.delta.content or "" for chunk in chunks), chunks[-1].finish_reason
    else:
        choice = client.chat.completions.create(**given).choices[0]
        text, reason = choice.message.content, choice.finish_reason
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"


def test_token_limit(client):
    messages = [{"role": "user", "content": QUESTION}]
    reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 1)
