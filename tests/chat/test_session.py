"""A conversation: the cache, the stream, what is kept and what is dropped, and what the record says of it."""

import json
from itertools import islice

import pytest

from video_llama import FrameSampling
from video_llama.chat import Decoding
from video_llama.errors import MediaError, NoAudioTrackError, PromptError

QUESTIONS = ("What do you see?", "What do you hear?", "Describe the shape.")
SHORT = {"max_new_tokens": 12}


def fresh_answer(chat, question: str, **decoding):
    """The same question in the same conversation, with nothing cached."""
    chat._cache = None
    return chat.ask(question, **decoding)


@pytest.fixture
def chat(assistant, clips):
    return assistant.chat(clips["video"])


class TestCache:
    @pytest.mark.parametrize("decoding", [{}, {"temperature": 1.3, "seed": 5}, {"repetition_penalty": 1.5}])
    def test_later_questions_reuse_it_and_change_nothing(self, assistant, clips, decoding):
        cached, uncached = assistant.chat(clips["video"]), assistant.chat(clips["video"])
        for question in QUESTIONS:
            with_cache = cached.ask(question, **SHORT, **decoding)
            without = fresh_answer(uncached, question, **SHORT, **decoding)
            assert with_cache.text == without.text
            assert without.record.tokens["reused"] == 0
        tokens = with_cache.record.tokens
        assert tokens["prompt"] // 2 < tokens["reused"] < tokens["prompt"]

    def test_media_are_encoded_once(self, chat):
        seconds = [chat.ask(question, **SHORT).record.seconds for question in QUESTIONS]
        assert seconds[0]["decode_media"] > 0 < seconds[0]["encode_media"]
        assert all(each["decode_media"] == each["encode_media"] == 0 for each in seconds[1:])

    def test_a_medium_added_later_keeps_what_was_read(self, assistant, clips):
        chat = assistant.chat(clips["video"])
        chat.ask(QUESTIONS[0], **SHORT)
        chat.add(clips["image"])
        cached = chat.ask(QUESTIONS[1], **SHORT)
        other = assistant.chat(clips["video"])
        other.ask(QUESTIONS[0], **SHORT)
        other.add(clips["image"])
        assert cached.text == fresh_answer(other, QUESTIONS[1], **SHORT).text
        assert cached.record.tokens["reused"] > 0

    def test_history_dropped(self, assistant, clips):
        cached, uncached = assistant.chat(clips["video"]), assistant.chat(clips["video"])
        for index in range(8):
            question = f"{QUESTIONS[index % 3]} And the colour {index}?"
            answer = cached.ask(question, **SHORT)
            assert answer.text == fresh_answer(uncached, question, **SHORT).text
            assert answer.record.tokens["media"] == 5 + 3
        assert answer.record.dropped_turns > 0
        assert "And the colour 0?" not in answer.record.prompt
        assert answer.record.prompt.count("<ImageHere>") == 2


class TestStream:
    @pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}, {"temperature": 1.0, "top_k": 20, "seed": 1}])
    def test_pieces_join_to_the_answer(self, assistant, clips, decoding):
        stream = assistant.chat(clips["video"]).stream(QUESTIONS[0], **SHORT, **decoding)
        assert stream.answer is None
        text = "".join(stream)
        assert text == stream.answer.text != ""
        assert text == assistant.chat(clips["video"]).ask(QUESTIONS[0], **SHORT, **decoding).text

    def test_closed_stream_leaves_what_was_said(self, assistant, clips, chat):
        stream = chat.stream(QUESTIONS[0], max_new_tokens=30)
        begun = next(stream) + next(stream)
        stream.close()
        assert list(stream) == []
        assert stream.answer.record.stop_reason == "closed"
        assert stream.answer.text.startswith(begun)
        following = chat.ask(QUESTIONS[1], **SHORT)
        assert following.record.tokens["reused"] > 0
        assert f"###Assistant: {stream.answer.text}###" in following.record.prompt
        assert following.text == fresh_answer(self.closed(assistant, clips), QUESTIONS[1], **SHORT).text

    def closed(self, assistant, clips):
        chat = assistant.chat(clips["video"])
        stream = chat.stream(QUESTIONS[0], max_new_tokens=30)
        next(stream), next(stream)
        stream.close()
        return chat

    def test_stream_that_never_began_leaves_no_trace(self, chat):
        chat.stream(QUESTIONS[0]).close()
        answer = chat.ask(QUESTIONS[1], **SHORT)
        assert QUESTIONS[0] not in answer.record.prompt
        assert chat.answers == [answer]

    def test_next_question_closes_an_open_stream(self, chat):
        stream = chat.stream(QUESTIONS[0], max_new_tokens=30)
        next(stream)
        answer = chat.ask(QUESTIONS[1], **SHORT)
        assert stream.answer.record.stop_reason == "closed"
        assert chat.answers == [stream.answer, answer]

    def test_interrupt_in_the_middle_of_a_step(self, chat, assistant, clips):
        model = assistant._engine.model
        stream = chat.stream(QUESTIONS[0], max_new_tokens=30)
        begun = next(stream)
        handle = model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        handle.remove()
        assert stream.answer.text.startswith(begun)
        answer = chat.ask(QUESTIONS[1], **SHORT)
        assert answer.record.tokens["reused"] == 0


def interrupt(*_):
    raise KeyboardInterrupt


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


class TestMedia:
    def test_any_number_in_any_order(self, assistant, clips):
        chat = assistant.chat(clips["image"], clips["sound"])
        chat.add(clips["frames"])
        record = chat.ask(QUESTIONS[0], **SHORT).record
        assert [medium["kind"] for medium in record.media] == ["image", "audio", "frames"]
        assert record.tokens["media"] == 5 + 3 + 5
        assert record.prompt.count("<ImageHere>") == 3
        assert record.modalities == {"video": "used", "audio": "used"}

    def test_list_is_one_video_of_frames(self, assistant, clips):
        frames = sorted(clips["frames"].iterdir())
        record = assistant.chat(frames).ask(QUESTIONS[0], **SHORT).record
        assert len(record.media) == 1
        assert record.media[0]["frames"]["indices"] == [0, 1, 2, 3]

    def test_words_alone(self, assistant):
        record = assistant.chat().ask(QUESTIONS[0], **SHORT).record
        assert record.prompt == "###Human: What do you see?###Assistant:"
        assert record.media == []
        assert record.modalities["video"] == "no medium given"

    def test_missing_track_is_said(self, assistant, clips):
        record = assistant.chat(clips["silent"]).ask(QUESTIONS[0], **SHORT).record
        assert record.modalities == {"video": "used", "audio": "no audio track"}
        assert "The video contains 4 frames sampled at 0.0, 0.5, 1.0, 1.5 seconds. " in record.prompt

    def test_no_audio_is_a_choice(self, assistant, clips):
        record = assistant.chat(clips["video"], no_audio=True).ask(QUESTIONS[0], **SHORT).record
        assert record.modalities["audio"] == "not asked for"
        assert record.media[0]["sound"] is None

    @pytest.mark.parametrize("name", ["silent", "image", "frames"])
    def test_required_audio_missing(self, assistant, clips, name):
        with pytest.raises(NoAudioTrackError, match=r"Give a video with sound|give a file with sound"):
            assistant.chat(clips[name], require_audio=True)

    def test_sound_alone_without_sound(self, assistant, clips):
        with pytest.raises(MediaError, match="is a sound file, but no_audio ignores sound"):
            assistant.chat(clips["sound"], no_audio=True)

    def test_both_choices(self, assistant, clips):
        with pytest.raises(ValueError, match="Use one of them"):
            assistant.chat(clips["video"], no_audio=True, require_audio=True)

    def test_part_of_the_sound_goes_with_part_of_the_picture(self, assistant, clips):
        record = (
            assistant.chat(clips["video"], frames=FrameSampling(2, start=1.0, end=2.5)).ask("What?", **SHORT).record
        )
        assert record.media[0]["frames"]["seconds"] == [1.0, 1.7]
        assert record.media[0]["sound"]["start_seconds"] == [1.0, 1.0, 1.0]
        assert record.media[0]["sound"]["duration"] == 1.5

    def test_kind_is_found_or_given(self, assistant, clips):
        chat = assistant.chat()
        chat.add(clips["video"], kind="audio")
        with pytest.raises(MediaError, match=r"has no video stream. It has only sound"):
            chat.add(clips["sound"], kind="video")
        record = chat.ask(QUESTIONS[0], **SHORT).record
        assert record.modalities == {"video": "no video track", "audio": "used"}

    def test_too_many_frames(self, assistant, clips):
        with pytest.raises(ValueError, match=r"9 frames are requested, but the limit is 8 \(max_frame_pos\)"):
            assistant.chat(clips["video"], frames=FrameSampling(9))

    def test_refused_medium_leaves_the_chat_as_it_was(self, chat, tmp_path):
        with pytest.raises(MediaError, match="does not exist"):
            chat.add(tmp_path / "none.mp4")
        assert len(chat.ask(QUESTIONS[0], **SHORT).record.media) == 1


class TestQuestions:
    @pytest.mark.parametrize("question", ["", " \n"])
    def test_empty(self, chat, question):
        with pytest.raises(PromptError, match="The question is empty"):
            chat.ask(question)

    def test_too_long_is_withdrawn(self, chat):
        with pytest.raises(PromptError, match=r"context length is 400. Shorten the question"):
            chat.ask("colour " * 15_000)
        answer = chat.ask(QUESTIONS[0], **SHORT)
        assert "colour" not in answer.record.prompt
        assert chat.answers == [answer]

    def test_reset_forgets_words_and_keeps_media(self, assistant, clips, chat):
        first = chat.ask(QUESTIONS[0], **SHORT)
        chat.ask(QUESTIONS[1], **SHORT)
        chat.reset()
        again = chat.ask(QUESTIONS[0], **SHORT)
        assert again.record.prompt == first.record.prompt
        assert again.text == first.text
        assert chat.answers == [again]


def test_record_is_json(chat):
    answer = chat.ask(QUESTIONS[0], top_p=0.9, seed=1, **SHORT)
    read = json.loads(json.dumps(answer.as_dict(), allow_nan=False))
    assert read["answer"] == answer.text
    assert read["weights"]["name"] == "tiny"
    assert len(read["weights"]["files"]["model.safetensors"]["sha256"]) == 64
    assert read["decoding"]["seed"] == 1
    assert read["media"][0]["frames"]["indices"] == [0, 7, 15, 22]
    assert read["media"][0]["sound"]["start_seconds"] == pytest.approx([0, 0.336, 0.672])
    assert read["tokens"]["generated"] <= 12
    assert set(read["seconds"]) == {"decode_media", "encode_media", "prefill", "generate"}
