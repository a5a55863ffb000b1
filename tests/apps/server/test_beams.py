"""Answers that are searched for with beams: those of ``Chat``, while other answers go on growing."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.apps.server.conftest import ask, held, posted, running, until

PATH, QUESTION = "/v1/chat/completions", "What do you see?"
NUM_BEAMS, NUM_TOKENS = 3, 12
SAMPLED = {"temperature": 1.3, "seed": 5}


def asked(client, question, messages=None, *, num_beams=NUM_BEAMS, **options):
    given = {"model": "tiny", "messages": messages or ask(question), "max_tokens": NUM_TOKENS, **options}
    reply = client.chat.completions.create(
        **given, extra_body={"video_llama": {"num_beams": num_beams, "record": True}}
    )
    [choice], [record] = reply.choices, reply.video_llama["records"]
    assert record["decoding"]["num_beams"] == num_beams
    assert record["tokens"]["generated"] == reply.usage.completion_tokens
    return choice.message.content


def alone(assistant, question, *media, num_beams=NUM_BEAMS, **decoding) -> str:
    return assistant.chat(*media).ask(question, num_beams=num_beams, max_new_tokens=NUM_TOKENS, **decoding).text


@pytest.mark.parametrize("decoding", [{}, SAMPLED])
def test_answer_is_the_chats(assistant, client, clips, urls, decoding):
    messages = ask(QUESTION, video=urls["video"])
    assert asked(client, QUESTION, messages, **decoding) == alone(assistant, QUESTION, clips["video"], **decoding)


def test_beams_find_another_answer(assistant):
    """Else the tests here would show nothing."""
    assert alone(assistant, QUESTION) != alone(assistant, QUESTION, num_beams=1)


def test_searches_and_answers_side_by_side_are_those_of_alone(assistant):
    requests = [(QUESTION, 3), (QUESTION, 3), ("Hear?", 1), ("And then?", 2), ("What do you hear?", 1)]
    with running(assistant) as server, ThreadPoolExecutor() as threads, held(server, len(requests)):
        client = server.client()
        answers = [threads.submit(asked, client, question, num_beams=num_beams) for question, num_beams in requests]
    expected = [alone(assistant, question, num_beams=num_beams) for question, num_beams in requests]
    assert [answer.result() for answer in answers] == expected


def test_search_holds_up_nobody_and_ends_when_its_client_leaves(assistant):
    with running(assistant) as server:
        request = {"model": "tiny", "messages": ask(QUESTION), "max_tokens": 200}
        with posted(server, PATH, {**request, "video_llama": {"num_beams": 8}}):
            until(lambda: server.service.num_running == 1)
            server.client().chat.completions.create(model="tiny", messages=ask("Hear?"), max_tokens=2)
            until(lambda: server.service.num_running == 1)  # the short answer's place is free, the search goes on
            assert server.service.num_taken == 1
        until(lambda: server.service.num_taken == server.service.num_running == 0)
        assert server.metric("video_llama_tokens_total", kind="generated") == 2


def test_stream_is_refused(client):
    with pytest.raises(openai.BadRequestError, match=r"cannot be streamed\. Leave out stream or num_beams"):
        client.chat.completions.create(
            model="tiny", messages=ask(QUESTION), stream=True, extra_body={"video_llama": {"num_beams": 2}}
        )


@pytest.mark.parametrize(
    ("num_beams", "message"),
    [(9, r"video_llama\.num_beams asks for 9 beams; this server takes 8"), (0, r"video_llama\.num_beams: ")],
)
def test_limits(client, num_beams, message):
    with pytest.raises(openai.BadRequestError, match=message):
        asked(client, QUESTION, num_beams=num_beams)
