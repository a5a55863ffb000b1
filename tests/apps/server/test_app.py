"""The API as the official ``openai`` client sees it, against a real server; its answers are those of ``Chat``."""

import base64

import httpx
import openai
import pytest

from tests.apps.server.conftest import ask, running, until

QUESTION = "What do you see?"
KINDS = {"video": "video", "silent": "video", "sound": "audio", "image": "image"}


def alone(assistant, clips, name, question=QUESTION, **decoding) -> str:
    chat = assistant.chat(clips[name]) if name else assistant.chat()
    return chat.ask(question, max_new_tokens=12, **decoding).text


@pytest.mark.parametrize("name", KINDS)
def test_answers_as_chat_does(assistant, client, clips, urls, name):
    reply = client.chat.completions.create(
        model="tiny", messages=ask(QUESTION, **{KINDS[name]: urls[name]}), max_tokens=12
    )
    assert reply.choices[0].message.content == alone(assistant, clips, name)
    assert reply.object == "chat.completion"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_input_audio(assistant, client, clips):
    sound = base64.b64encode(clips["sound"].read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12)
    assert reply.choices[0].message.content == alone(assistant, clips, "sound")


def test_words_alone(assistant, client, clips):
    messages = [{"role": "user", "content": QUESTION}]
    reply = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=12)
    assert reply.choices[0].message.content == alone(assistant, clips, None)


def test_history_and_system(assistant, client, clips, urls):
    chat = assistant.chat(clips["video"], system="Be brief.")
    first, second = (chat.ask(question, max_new_tokens=8).text for question in (QUESTION, "And then?"))
    messages = [
        {"role": "system", "content": "Be brief."},
        *ask(QUESTION, video=urls["video"]),
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And then?"},
    ]
    reply = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=8, extra_body={"video_llama": {"record": True}}
    )
    assert reply.choices[0].message.content == second
    record = reply.video_llama["records"][0]
    assert record["prompt"] == chat.answers[-1].record.prompt
    assert record["tokens"]["prompt"] == chat.answers[-1].record.tokens["prompt"]


def test_stream(assistant, client, clips, urls):
    messages = ask(QUESTION, video=urls["video"])
    options = {"include_usage": True}
    with client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=12, stream=True, stream_options=options
    ) as stream:
        *chunks, last = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(pieces) == alone(assistant, clips, "video")
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
    assert record["modalities"] == {"video": "used", "audio": "not asked for"}
    assert record["decoding"]["seed"] == 7
    assert "path" not in record["weights"]
    assert "noise" in reply.video_llama["notice"]
    plain = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert "video_llama" not in plain.model_extra


def test_seed_draws_the_same_answer_and_choices_differ(assistant, client, clips, urls):
    def drawn():
        return client.chat.completions.create(
            model="tiny", messages=ask(QUESTION, image=urls["image"]), max_tokens=12, temperature=1.5, seed=11, n=3
        )

    texts = [choice.message.content for choice in drawn().choices]
    assert texts == [choice.message.content for choice in drawn().choices]
    assert len(set(texts)) == 3
    assert texts == [alone(assistant, clips, "image", temperature=1.5, seed=11 + number) for number in range(3)]


@pytest.mark.parametrize("stream", [False, True])
def test_stop(client, urls, stream):
    messages = ask(QUESTION, video=urls["video"])
    whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=40).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    given = dict(model="tiny", messages=messages, max_tokens=40, stop=[stop, "never said"])
    if stream:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**given, stream=True)]
        text, reason = "".join(chunk.delta.content or "" for chunk in chunks), chunks[-1].finish_reason
    else:
        choice = client.chat.completions.create(**given).choices[0]
        text, reason = choice.message.content, choice.finish_reason
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"


def test_length(client):
    messages = [{"role": "user", "content": QUESTION}]
    reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 1)


def test_models(client):
    [model] = client.models.list().data
    assert client.models.retrieve("tiny") == model
    assert "noise" in model.notice
    with pytest.raises(openai.NotFoundError, match="There is no model 'other' here"):
        client.models.retrieve("other")


def test_health_and_metrics(server, client):
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": QUESTION}], max_tokens=2)
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    text = httpx.get(f"{server.url}/metrics").text
    assert 'video_llama_requests_total{path="/v1/chat/completions",status="200"}' in text
    assert 'video_llama_tokens_total{kind="generated"}' in text


def test_description_names_what_is_there(server):
    description = httpx.get(f"{server.url}/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/health",
        "/metrics",
    }
    assert "422" not in description["paths"]["/v1/chat/completions"]["post"]["responses"]
    page = httpx.get(f"{server.url}/docs").text
    assert "POST /v1/chat/completions" in page
    assert 'id="ChatRequest"' in page
    assert "://" not in page.replace("http://www.w3.org", "")


REFUSED = {
    "unknown model": (dict(model="gpt-4"), 404, "There is no model 'gpt-4' here. This server has 'tiny'"),
    "unknown parameter": (dict(tools=[]), 400, "tools: Extra inputs are not permitted"),
    "penalty": (dict(presence_penalty=1), 400, "presence_penalty"),
    "temperature": (dict(temperature=-1), 400, "temperature"),
    "too many tokens": (dict(max_tokens=9999), 400, "max_tokens asks for 9,999 tokens; this server takes 1,024"),
    "whole context": (dict(max_tokens=400), 400, "max_new_tokens 400 fills the whole context of 400. Lower it"),
    "no question": (dict(messages=[{"role": "user", "content": " "}]), 400, "with a question in words"),
    "answer last": (dict(messages=[{"role": "assistant", "content": "Yes."}]), 400, "must be a user's"),
    "too long": (dict(messages=[{"role": "user", "content": "word " * 400}]), 400, "Shorten the question"),
    "two samplings": (dict(video_llama={"fps": 1, "frames": 2}), 400, "frames and fps are given. Give one of them"),
    "too many choices": (dict(n=99), 400, "n asks for 99 choices; this server takes 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_openai_shape(server, name):
    change, status, message = REFUSED[name]
    request = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], **change}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=request)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert message in reply.json()["error"]["message"]
    assert server.service.num_taken == 0


BAD_MEDIA = {
    "no base64": ("data:video/mp4;base64,@@", "is no base64"),
    "no comma": ("data:video/mp4", "has no comma"),
    "empty": ("data:video/mp4;base64,", r"messages[0].content[1] is empty"),
    "no media": ("data:video/mp4;base64,aGVsbG8=", r"messages[0].content[1] cannot be read as video or sound"),
    "remote": ("https://example.org/clip.mp4", "--allow-host"),
    "local": ("file:///etc/passwd", "--media-root"),
    "scheme": ("ftp://example.org/clip.mp4", "neither data:, http(s): nor file:"),
}


@pytest.mark.parametrize("name", BAD_MEDIA)
def test_bad_media(client, name):
    url, message = BAD_MEDIA[name]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ask(QUESTION, video=url))
    assert message in caught.value.body["message"]
    assert caught.value.code == "bad_media"


def test_image_is_no_sound(client, urls):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=ask(QUESTION, audio=urls["image"]))


class TestKey:
    def test_is_asked_for(self, assistant):
        with running(assistant, api_key="s3cret") as server:
            messages = [{"role": "user", "content": QUESTION}]
            given = dict(model="tiny", messages=messages, max_tokens=1)
            for wrong in ("s3cre", "s3crets", "clé"):
                reply = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {wrong}".encode()})
                assert reply.status_code == 401
            with pytest.raises(openai.AuthenticationError, match="The key is missing or wrong"):
                server.client("other").chat.completions.create(**given)
            assert server.client("s3cret").chat.completions.create(**given).choices
            assert httpx.get(f"{server.url}/metrics").status_code == 401
            assert httpx.get(f"{server.url}/health").status_code == 200

    def test_is_not_shown(self):
        from video_llama.apps.server import ServerSettings

        assert "s3cret" not in repr(ServerSettings(api_key="s3cret"))


def test_paths_that_are_not_there_are_one_counter(server):
    for path in ("/nowhere", "/elsewhere"):
        assert httpx.get(f"{server.url}{path}").json()["error"]["type"] == "not_found_error"
    until(lambda: server.metric("video_llama_requests_total", path="other", status="404") >= 2)
