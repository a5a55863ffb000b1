"""Timelines over HTTP: equal to those of ``Assistant.timeline``, next to other requests, and the errors."""

import threading

import openai
import pytest

from tests.apps.server.conftest import ask, data_url, held, running, until
from tests.factories.media import write_long_video
from video_llama.chat.timeline_formats import timeline_text

QUESTION = "What do you see?"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_long_video(tmp_path_factory.mktemp("film") / "film.mp4", 70)


@pytest.fixture(scope="module")
def film_url(film) -> str:
    return data_url(film.read_bytes())


def complete(client, messages, extension, **fields):
    fields = {"max_tokens": 8, **fields}
    return client.chat.completions.create(
        model="tiny", messages=messages, extra_body={"video_llama": extension}, **fields
    )


def test_equals_the_timeline_in_python(assistant, client, film, film_url):
    reply = complete(client, ask(QUESTION, video=film_url), {"window": 20, "stride": 10, "record": True})
    expected = assistant.timeline(film, QUESTION, window=20, stride=10, max_new_tokens=8)
    assert reply.choices[0].message.content == timeline_text(expected.entries)
    timeline = reply.video_llama["timeline"]
    assert timeline["entries"] == [entry.as_dict() for entry in expected.entries]
    assert (timeline["window"], timeline["stride"], timeline["duration"]) == (20, 10, pytest.approx(70, abs=0.2))
    records = reply.video_llama["records"]
    for record, each in zip(records, expected.windows, strict=True):
        assert record["prompt_sha256"] == each.answer.record.prompt_sha256
        assert record["media"][0]["frames"] == each.answer.record.media[0]["frames"]
        assert "path" not in record["weights"]
    assert reply.usage.prompt_tokens == sum(record["tokens"]["prompt"] for record in records)


def test_summary_segment_and_no_record(client, film_url):
    extension = {"window": 10, "summary": True, "start": 20, "end": 40, "no_audio": True}
    reply = complete(client, ask(QUESTION, video=film_url), extension)
    timeline = reply.video_llama["timeline"]
    assert (timeline["entries"][0]["start"], timeline["entries"][-1]["end"]) == (20, 40)
    assert timeline["summary"] is not None
    assert reply.choices[0].message.content.endswith(f"Summary: {timeline['summary']}")
    assert reply.video_llama.get("records") is None


def test_scenes(client, film_url):
    reply = complete(client, ask(QUESTION, video=film_url), {"scenes": True, "record": True, "no_audio": True})
    starts = [record["media"][0]["frames"]["seconds"][0] for record in reply.video_llama["records"]]
    assert starts == [0, 10, 20, 30, 40, 50, 60]
    assert reply.video_llama["timeline"]["scenes"]["threshold"] == 8


def test_only_the_sound_of_a_video(assistant, client, film, film_url):
    reply = complete(client, ask(QUESTION, audio=film_url), {"window": 30, "record": True})
    assert [record["media"][0]["frames"] for record in reply.video_llama["records"]] == [None] * 3
    assert [record["media"][0]["kind"] for record in reply.video_llama["records"]] == ["audio"] * 3


@pytest.mark.parametrize(
    ("extension", "fields", "param", "message"),
    [
        ({"window": 0}, {}, "video_llama.window", "greater than 0"),
        ({"stride": 5}, {}, "video_llama.stride", "stride applies to a timeline. Give window or scenes too."),
        ({"summary": True}, {}, "video_llama.summary", "summary applies to a timeline"),
        ({"window": 5}, {"n": 2}, "n", "n cannot be combined with a timeline"),
        ({"window": 5}, {"stream": True}, "stream", "stream cannot be combined with a timeline"),
        ({"window": 5, "num_beams": 2}, {}, "video_llama.num_beams", "cannot be combined with a timeline"),
        ({"window": 5, "times": [1.0]}, {}, "video_llama.times", "cannot be combined with a timeline"),
        ({"scenes": True, "stride": 5}, {}, "video_llama.stride", "stride cannot be combined with scenes"),
        ({"window": 0.1}, {}, "video_llama.window", "700 windows in 70.0 s, but the limit of this server is 64"),
        ({"window": 5, "start": 90}, {}, "messages[0].content[1].video_url", "start is 90 s, but it lasts 70.00 s"),
    ],
)
def test_errors(client, film_url, extension, fields, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, ask(QUESTION, video=film_url), extension, **fields)
    assert caught.value.param == param
    assert message in caught.value.message


def test_media_that_cannot_be_divided(client, urls, film_url):
    with pytest.raises(openai.BadRequestError, match="is an image, and windows divide a video or a sound"):
        complete(client, ask(QUESTION, image=urls["image"]), {"window": 5})
    with pytest.raises(openai.BadRequestError, match="the request has 0 media"):
        complete(client, ask(QUESTION), {"window": 5})
    with pytest.raises(openai.BadRequestError, match="the request has 2 media"):
        complete(client, ask(QUESTION, video=film_url, audio=film_url), {"window": 5})


def test_limits(assistant, film_url):
    message = r"lasts 70\.0 s; the limit is 60 s"
    with running(assistant, max_media_seconds=60) as server, pytest.raises(openai.BadRequestError, match=message):
        complete(server.client(), ask(QUESTION, video=film_url), {"window": 5})
    with running(assistant, max_rows=1, max_queue=1) as server:
        reply = complete(server.client(), ask(QUESTION, video=film_url), {"window": 20})
        assert len(reply.video_llama["timeline"]["entries"]) >= 1
        until(lambda: server.service.num_taken == 0)


def test_places_are_released_if_the_client_leaves(server, film_url):
    """The windows that wait are cancelled, and the next request is answered."""

    def send():
        client = server.client().with_options(timeout=2.0)
        with pytest.raises(openai.APITimeoutError):
            complete(client, ask(QUESTION, video=film_url), {"window": 5})

    thread = threading.Thread(target=send)
    with held(server, 0):
        thread.start()
        thread.join()
    until(lambda: server.service.num_taken == 0)
    assert complete(server.client(), ask(QUESTION), {}).choices[0].message.content is not None


def test_interpolated_positions(model_path, urls):
    """The media processes read as many frames as the model that serves them allows."""
    import video_llama

    assistant = video_llama.load(model_path, device="cpu", interpolate_positions=True)
    with running(assistant) as server:
        reply = complete(server.client(), ask(QUESTION, video=urls["video"]), {"frames": 12, "record": True})
    [record] = reply.video_llama["records"]
    assert len(record["media"][0]["frames"]["indices"]) == 12
    assert "outside of training" in record["warnings"][0]
