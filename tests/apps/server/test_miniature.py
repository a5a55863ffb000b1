"""The server with the shipped weights, as users meet it; skipped where they are not there."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.apps.server.conftest import ask, data_url, held, running

CLIP, QUESTION, OTHER_QUESTION = "two_shapes.mp4", "What happens in the video?", "Describe what you see and hear."


@pytest.fixture(scope="module")
def miniature():
    import video_llama
    from video_llama.chat.loading import MINIATURE_PATH

    if not MINIATURE_PATH.is_dir():
        pytest.skip("the miniature's weights are not there: video-llama miniature train")
    return video_llama.load("miniature", device="cpu")


@pytest.fixture
def asked(miniature, repository):
    """Asks a fresh server about the clip; returns the whole completion."""
    with running(miniature) as server:
        url = data_url((repository / "examples" / CLIP).read_bytes())

        def ask_server(question):
            return server.client().chat.completions.create(model=miniature.name, messages=ask(question, video=url))

        ask_server.server = server
        yield ask_server


def alone(miniature, repository, question) -> str:
    return miniature.chat(repository / "examples" / CLIP).ask(question).text


def test_answers_as_the_chat_does(miniature, repository, asked):
    reply = asked(QUESTION)
    assert reply.choices[0].message.content == alone(miniature, repository, QUESTION)
    assert reply.usage.completion_tokens > 2


def test_two_at_once_are_answered_as_one_by_one(miniature, repository, asked):
    """Both wait for the model, and are then decoded together."""
    questions = (QUESTION, OTHER_QUESTION)
    asked("Hello")  # now the clip is known, and costs the model nothing
    with ThreadPoolExecutor() as threads, held(asked.server, len(questions)):
        replies = [threads.submit(asked, question) for question in questions]
    texts = [reply.result().choices[0].message.content for reply in replies]
    assert texts == [alone(miniature, repository, question) for question in questions]
    assert texts[0] != texts[1]
