"""Routes, API key, body size and error format, tested with the official ``openai`` client against a real server."""

import base64

import httpx
import openai
import pytest

from tests.apps.server.conftest import CHAT_PATH, PATIENCE, ask, data_url, running, until

QUESTION = "What do you see?"
KINDS = {"video": "video", "silent": "video", "sound": "audio", "image": "image"}


def answer_of_chat(assistant, clips, name, question=QUESTION, **decoding) -> str:
    chat = assistant.chat(clips[name]) if name else assistant.chat()
    return chat.ask(question, max_new_tokens=12, **decoding).text


class TestAnswers:
    """Answers equal those of ``Chat``."""

    @pytest.mark.parametrize("name", KINDS)
    def test_media(self, assistant, client, clips, urls, name):
        reply = client.chat.completions.create(
            model="tiny", messages=ask(QUESTION, **{KINDS[name]: urls[name]}), max_tokens=12
        )
        assert reply.choices[0].message.content == answer_of_chat(assistant, clips, name)
        assert reply.object == "chat.completion"
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens

    def test_input_audio(self, assistant, client, clips):
        sound = base64.b64encode(clips["sound"].read_bytes()).decode()
        part = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
        reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12)
        assert reply.choices[0].message.content == answer_of_chat(assistant, clips, "sound")

    def test_text_only(self, assistant, client, clips):
        messages = [{"role": "user", "content": QUESTION}]
        reply = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=12)
        assert reply.choices[0].message.content == answer_of_chat(assistant, clips, None)

    def test_history_and_system_message(self, assistant, client, clips, urls):
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

    def test_equal_seeds_give_equal_answers_and_choices_differ(self, assistant, client, clips, urls):
        def sample():
            reply = client.chat.completions.create(
                model="tiny", messages=ask(QUESTION, image=urls["image"]), max_tokens=12, temperature=1.5, seed=11, n=3
            )
            return [choice.message.content for choice in reply.choices]

        texts = sample()
        assert texts == sample()
        assert len(set(texts)) == 3
        expected = [answer_of_chat(assistant, clips, "image", temperature=1.5, seed=11 + index) for index in range(3)]
        assert texts == expected


def test_models(client):
    [model] = client.models.list().data
    assert client.models.retrieve("tiny") == model
    assert "noise" in model.notice
    with pytest.raises(openai.NotFoundError, match=r"The model 'other' does not exist\. Use 'tiny'"):
        client.models.retrieve("other")


def test_health(server):
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_description_and_page(server):
    description = httpx.get(f"{server.url}/openapi.json").json()
    paths = {CHAT_PATH, "/v1/models", "/v1/models/{name}", "/health", "/metrics"}
    assert set(description["paths"]) == paths
    assert "422" not in description["paths"][CHAT_PATH]["post"]["responses"]
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert all(path in page.text for path in paths)


class TestKey:
    def test_is_required(self, assistant):
        with running(assistant, api_key="s3cret") as server:
            messages = [{"role": "user", "content": QUESTION}]
            given = dict(model="tiny", messages=messages, max_tokens=1)
            for wrong in ("s3cre", "s3crets", "clé"):
                reply = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {wrong}".encode()})
                assert reply.status_code == 401
            with pytest.raises(openai.AuthenticationError, match=r"The API key is missing or wrong\. Send it in"):
                server.client("other").chat.completions.create(**given)
            assert server.client("s3cret").chat.completions.create(**given).choices
            assert httpx.get(f"{server.url}/metrics").status_code == 401
            assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.fixture(scope="module")
def small(assistant):
    """A server with low limits."""
    with running(assistant, max_body_bytes=5000) as server:
        yield server


class TestBody:
    def test_content_length_above_the_limit(self, small):
        reply = httpx.post(f"{small.url}{CHAT_PATH}", content=b" " * 5001)
        assert reply.status_code == 413
        assert reply.json()["error"]["message"] == "The request is larger than 5,000 bytes. Send a smaller one."

    def test_body_without_content_length(self, small):
        reply = httpx.post(f"{small.url}{CHAT_PATH}", content=(b" " * 1000 for _ in range(10)))
        assert reply.status_code == 413

    def test_body_within_the_limit(self, server):
        """A body of 20 MB is accepted; the error is about the medium and comes from the media process."""
        request = {"model": "tiny", "messages": ask("What?", video=data_url(bytes(15_000_000)))}
        reply = httpx.post(f"{server.url}{CHAT_PATH}", json=request, timeout=PATIENCE)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "bad_media"
        assert "cannot be read as video" in reply.json()["error"]["message"]

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b"[" * 4000, b'"' + b"9" * 4900]
    )
    def test_invalid_json(self, small, body):
        reply = httpx.post(f"{small.url}{CHAT_PATH}", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_share_one_counter(server):
    for path in ("/nowhere", "/elsewhere"):
        assert httpx.get(f"{server.url}{path}").json()["error"]["type"] == "not_found_error"
    until(lambda: server.metric("video_llama_requests_total", path="other", status="404") >= 2)
