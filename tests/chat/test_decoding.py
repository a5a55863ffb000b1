"""Decoding settings and the choice of tokens."""

from __future__ import annotations

from itertools import islice

import pytest

import video_llama
from tests.factories.models import make_folder
from video_llama.chat import Decoding
from video_llama.errors import CheckpointError

QUESTIONS = ("What do you see?", "What do you hear?", "Describe the shape.")


SHORT = {"max_new_tokens": 12}


class TestDecoding:
    def test_greedy_by_default(self, assistant, clips):
        decoding = assistant.chat(clips["video"]).ask(QUESTIONS[0], **SHORT).record.decoding
        assert decoding["seed"] is None
        assert decoding["num_beams"] == 1

    def test_seed_repeats_and_is_drawn_when_not_given(self, assistant, clips):
        chats = [assistant.chat(clips["silent"]) for _ in range(3)]
        drawn = chats[0].ask(QUESTIONS[0], temperature=2.0, **SHORT)
        seed = drawn.record.decoding["seed"]
        assert isinstance(seed, int)
        assert chats[1].ask(QUESTIONS[0], temperature=2.0, seed=seed, **SHORT).text == drawn.text
        assert chats[2].ask(QUESTIONS[0], temperature=2.0, seed=seed + 1, **SHORT).text != drawn.text

    def test_repetition_penalty_acts(self, assistant, clips):
        plain = assistant.chat(clips["silent"]).ask(QUESTIONS[0], max_new_tokens=40)
        strict = assistant.chat(clips["silent"]).ask(QUESTIONS[0], max_new_tokens=40, repetition_penalty=1e6)
        assert strict.text != plain.text

    def test_one_beam_of_generate_is_our_greedy_loop(self, assistant, clips):
        """transformers' own greedy search, on the same embeddings, is the measure of our loop."""
        engine = assistant._engine
        chat = assistant.chat(clips["video"])
        turn = engine.turn(chat._conversation, chat._media, QUESTIONS[0], Decoding(max_new_tokens=25))
        embeds, mask = engine.embed([turn])
        eos = engine.tokenizer.eos_id
        ids = engine.model.generate(
            inputs_embeds=embeds, attention_mask=mask, do_sample=False, max_new_tokens=25, eos_token_id=eos
        )
        ours = list(islice(chat._steps(turn, empty_cache(), 0), ids.shape[1]))
        assert ours == ids[0].tolist()

    def test_stop_string(self, assistant, clips):
        """Of forty drawn answers some come to the stop string; there the text ends."""
        requests = [(assistant.encode(clips["image"]), QUESTIONS[0])] * 40
        answers = assistant.ask_batch(requests, batch_size=40, temperature=1.5, seed=0, max_new_tokens=60)
        stopped = [answer for answer in answers if answer.record.stop_reason == "stop_string"]
        assert stopped
        assert all("###" not in answer.text for answer in answers)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_new_tokens", 0),
            ("temperature", -1),
            ("top_p", 0),
            ("top_p", 1.5),
            ("top_k", 0),
            ("num_beams", 0),
            ("num_beams", 65),
        ],
    )
    def test_bad_value(self, chat, name, value):
        with pytest.raises(ValueError, match=rf"{name} is {value}\. Give "):
            chat.ask(QUESTIONS[0], **{name: value})

    def test_reference(self):
        from video_llama.conversation import REFERENCE_DECODING

        reference = Decoding.reference()
        shared = set(vars(reference)) & set(REFERENCE_DECODING) - {"length_penalty"}
        assert {name: getattr(reference, name) for name in shared} == {n: REFERENCE_DECODING[n] for n in shared}
        assert reference.is_sampling


def empty_cache():
    from video_llama.chat.cache import PromptCache

    return PromptCache()


def test_weights_that_are_no_numbers_refuse(tmp_path):
    path = make_folder(tmp_path / "tiny")
    assistant = video_llama.load(path, device="cpu")
    assistant._engine.model.lm_head.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"computed NaN or infinity in torch.float32"):
        assistant.chat().ask("What?")


@pytest.mark.parametrize("num_beams", [1, 3])
def test_logits_that_are_not_finite_are_an_error(tmp_path, num_beams):
    assistant = video_llama.load(make_folder(tmp_path / "tiny"), device="cpu")
    assistant.engine.model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(CheckpointError, match=r"computed NaN or infinity"):
        assistant.chat().ask("What?", num_beams=num_beams)
