"""Answers of the scheduler equal those of ``Chat``, one by one and together, also with beam search."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import video_llama
from tests.apps.server.conftest import CHAT_PATH, ask, data_url, held, posted, running, until
from video_llama.chat.loading import MINIATURE_PATH

QUESTION = "What do you see?"
NUM_BEAMS, NUM_TOKENS = 3, 12
SAMPLED = {"temperature": 1.3, "seed": 5}


def answer(client, question, messages=None, *, num_beams=NUM_BEAMS, **options):
    """Return the server's answer, checking its record."""
    given = {"model": "tiny", "messages": messages or ask(question), "max_tokens": NUM_TOKENS, **options}
    reply = client.chat.completions.create(
        **given, extra_body={"video_llama": {"num_beams": num_beams, "record": True}}
    )
    [choice], [record] = reply.choices, reply.video_llama["records"]
    assert record["decoding"]["num_beams"] == num_beams
    assert record["tokens"]["generated"] == reply.usage.completion_tokens
    return choice.message.content


def answer_of_chat(assistant, question, *media, num_beams=NUM_BEAMS, **decoding) -> str:
    return assistant.chat(*media).ask(question, num_beams=num_beams, max_new_tokens=NUM_TOKENS, **decoding).text


class TestBeamSearch:
    @pytest.mark.parametrize("decoding", [{}, SAMPLED])
    def test_answer_equals_that_of_chat(self, assistant, client, clips, urls, decoding):
        messages = ask(QUESTION, video=urls["video"])
        expected = answer_of_chat(assistant, QUESTION, clips["video"], **decoding)
        assert answer(client, QUESTION, messages, **decoding) == expected

    def test_beams_change_the_answer(self, assistant):
        """Otherwise the tests of beam search would prove nothing."""
        assert answer_of_chat(assistant, QUESTION) != answer_of_chat(assistant, QUESTION, num_beams=1)

    def test_concurrent_searches_and_answers_equal_single_ones(self, assistant):
        requests = [(QUESTION, 3), (QUESTION, 3), ("Hear?", 1), ("And then?", 2), ("What do you hear?", 1)]
        with running(assistant) as server, ThreadPoolExecutor() as threads, held(server, len(requests)):
            client = server.client()
            answers = [threads.submit(answer, client, question, num_beams=beams) for question, beams in requests]
        expected = [answer_of_chat(assistant, question, num_beams=beams) for question, beams in requests]
        assert [reply.result() for reply in answers] == expected

    def test_does_not_block_other_answers_and_ends_when_its_client_disconnects(self, assistant):
        with running(assistant) as server:
            client = server.client()  # takes long to make, and the search must not end before
            request = {"model": "tiny", "messages": ask(QUESTION), "max_tokens": 300}
            with posted(server, CHAT_PATH, {**request, "video_llama": {"num_beams": 8}}):
                until(lambda: server.service.num_running == 1)
                client.chat.completions.create(model="tiny", messages=ask("Hear?"), max_tokens=2)
                until(lambda: server.service.num_running == 1)  # the short answer is complete, the search is not
                assert server.service.num_taken == 1
            until(lambda: server.service.num_taken == server.service.num_running == 0)
            assert server.metric("video_llama_tokens_total", kind="generated") == 2

    def test_stream_is_refused(self, client):
        with pytest.raises(openai.BadRequestError, match=r"cannot be streamed\. Leave out stream or num_beams"):
            client.chat.completions.create(
                model="tiny", messages=ask(QUESTION), stream=True, extra_body={"video_llama": {"num_beams": 2}}
            )

    @pytest.mark.parametrize(
        ("num_beams", "message"),
        [
            (9, r"video_llama\.num_beams: 9 beams requested, but the limit of this server is 8"),
            (0, r"video_llama\.num_beams: "),
        ],
    )
    def test_limits(self, client, num_beams, message):
        with pytest.raises(openai.BadRequestError, match=message):
            answer(client, QUESTION, num_beams=num_beams)


CLIP, CLIP_QUESTIONS = "two_shapes.mp4", ("What happens in the video?", "Describe what you see and hear.")


@pytest.fixture(scope="module")
def miniature():
    if not MINIATURE_PATH.is_dir():
        pytest.skip("needs the miniature's weights: video-llama miniature train")
    return video_llama.load("miniature", device="cpu")


@pytest.fixture(scope="module")
def expected(miniature, repository) -> list[str]:
    """The answers of ``Chat`` to the questions about the clip."""
    return [miniature.chat(repository / "examples" / CLIP).ask(question).text for question in CLIP_QUESTIONS]


@pytest.fixture(scope="module")
def miniature_server(miniature):
    with running(miniature) as server:
        yield server


@pytest.fixture(scope="module")
def create(miniature, miniature_server, repository):
    """A function that sends a question about the clip and returns the completion."""
    url = data_url((repository / "examples" / CLIP).read_bytes())
    completions = miniature_server.client().chat.completions
    return lambda question: completions.create(model=miniature.name, messages=ask(question, video=url))


class TestMiniature:
    """The shipped weights, whose answers are sentences."""

    def test_answer_equals_that_of_chat(self, create, expected):
        reply = create(CLIP_QUESTIONS[0])
        assert reply.choices[0].message.content == expected[0]
        assert reply.usage.completion_tokens > 2

    def test_concurrent_answers_equal_single_ones(self, create, miniature_server, expected):
        create("Hello")  # the clip is now cached, so that both questions reach the scheduler while it is held
        with ThreadPoolExecutor() as threads, held(miniature_server, len(CLIP_QUESTIONS)):
            replies = [threads.submit(create, question) for question in CLIP_QUESTIONS]
        assert [reply.result().choices[0].message.content for reply in replies] == expected
        assert expected[0] != expected[1]
