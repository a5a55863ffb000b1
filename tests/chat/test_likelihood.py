"""The likelihood of given answers equals that of the model's forward pass over prompt and answer."""

import pytest
import torch

import video_llama
from video_llama.chat.likelihood import answer_scores
from video_llama.conversation import scored_answer
from video_llama.errors import ContextLengthError, PromptError

OPTIONS = ["a", "the red circle moves to the left", "no", "a sound"]
QUESTION = "What do you see?"


@pytest.fixture
def turn(assistant, clips):
    from video_llama.chat.decoding import Decoding
    from video_llama.processors.medium import MediaOptions

    return assistant.prepare(clips["video"], QUESTION, MediaOptions(), Decoding(max_new_tokens=1))


def test_scores_equal_a_forward_pass_over_the_whole_text(assistant, turn):
    engine = assistant.engine
    body, config = engine.model.model, engine.config
    [medium] = turn.media
    for score in answer_scores(engine, turn, OPTIONS):
        ids = scored_answer(
            engine.tokenizer,
            turn.shown,
            score.text,
            num_video_tokens=config.num_video_query_tokens,
            num_audio_tokens=config.num_audio_query_tokens,
        ).input_ids
        start = len(turn.prompt.input_ids)
        with torch.no_grad():
            embeds = body.embed_inputs(
                torch.tensor([ids]), video_features=medium.video_tokens[None], audio_features=medium.audio_tokens[None]
            )
            log_probs = engine.model(inputs_embeds=embeds).logits[0].log_softmax(dim=-1)
        expected = [log_probs[at - 1, ids[at]].item() for at in range(start, len(ids))]
        assert score.log_probs == pytest.approx(expected, abs=1e-4)  # float32, another order of summation
        assert score.sum == pytest.approx(sum(expected), abs=1e-3)
        assert score.mean == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_the_greedy_answer_is_greedy(repository):
    """The miniature's answers are encoded as it generates them; the tiny random model's are not."""
    miniature = video_llama.load("miniature", device="cpu")
    medium = miniature.encode(repository / "examples" / "square_with_hum.mp4")
    [answer] = miniature.ask_batch([(medium, "What colour is it?")], max_new_tokens=20)
    greedy, other = miniature.score(medium, "What colour is it?", [answer.text, "It is red."])
    assert (greedy.is_greedy, other.is_greedy) == (True, False)
    assert greedy.mean > other.mean


def test_scores_do_not_depend_on_the_other_answers(assistant, clips):
    encoded = assistant.encode(clips["video"])
    together = assistant.score([encoded], QUESTION, OPTIONS)
    for score, option in zip(together, OPTIONS, strict=True):
        [alone] = assistant.score(encoded, QUESTION, [option])
        assert score.log_probs == pytest.approx(alone.log_probs, abs=1e-4)
    assert assistant.score(None, QUESTION, []) == []


def test_answers_that_cannot_be_scored(assistant):
    with pytest.raises(PromptError, match="is empty"):
        assistant.score(None, QUESTION, ["yes", ""])
    with pytest.raises(ContextLengthError, match="Shorten the question or the answers"):
        assistant.score(None, QUESTION, ["yes", "no " * assistant.engine.context_length])
