"""transformers' processor, as AutoProcessor loads it from a model folder: ids and arrays are those of our own chat."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.processors.prompts import READY, STYLES, assistant, medium, new_conversation, our_ids, read, user
from video_llama.chat.messages import message_for
from video_llama.errors import MediaError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.video_processor import VideoProcessor


class TestIds:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize("system", [None, "Be  brief."])
    @pytest.mark.parametrize("kind", ["video", "silent", "sound", "image", "frames"])
    def test_of_every_kind_of_medium(self, processors, ours, clips, style, system, kind):
        said = new_conversation(ours, style, system)
        said.add_media(message_for(read(ours, clips[kind])))
        said.ask("What do you  see, and hear?")
        said.answer("A red square.")
        said.ask(" And now?\nTell")
        messages = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        messages += [user(medium(kind, clips[kind]), "What do you  see, and hear?"), assistant("A red square.")]
        messages += [user(" And now?\nTell")]
        inputs = processors[style].apply_chat_template(messages, **READY)
        assert inputs["input_ids"][0].tolist() == our_ids(ours, said)
        assert inputs["attention_mask"].all()

    @pytest.mark.parametrize("style", STYLES)
    def test_of_several_media_and_turns(self, processors, ours, clips, style):
        kinds = [("video", "sound", "image"), ("silent", "video")]
        said, messages = new_conversation(ours, style), []
        for turn in kinds:
            for kind in turn:
                said.add_media(message_for(read(ours, clips[kind])))
            said.ask("And these?")
            messages += [user(*(medium(kind, clips[kind]) for kind in turn), "And these?"), assistant("Yes.")]
            if turn == kinds[0]:
                said.answer("Yes.")
        inputs = processors[style].apply_chat_template(messages[:-1], **READY)
        assert inputs["input_ids"][0].tolist() == our_ids(ours, said)
        assert [len(each) for each in inputs["pixel_values_videos"]] == [4, 1, 4, 4]
        assert len(inputs["input_features"]) == 3

    @given(st.text(st.sampled_from("ab .\n#Zé你<s>/[INST]:Human"), max_size=30))
    def test_of_any_words(self, processors, ours, words):
        if not words.strip():
            return
        for style in STYLES:
            said = new_conversation(ours, style)
            said.ask(words)
            inputs = processors[style].apply_chat_template([{"role": "user", "content": words}], **READY)
            assert inputs["input_ids"][0].tolist() == our_ids(ours, said)

    def test_a_prompt_gets_one_beginning(self, processor, ours):
        for text in ("What?", "<s>What?"):
            assert processor(text=text)["input_ids"][0].tolist() == ours.tokenizer.encode("What?", add_bos=True)
        both = processor(text=["What?", "<s>What?"])["input_ids"]
        assert torch.equal(both[0], both[1])


class TestInputs:
    def test_arrays_are_those_of_chat(self, processor, ours, clips):
        text = "<audio>. <Video><video></Video> What?"
        inputs = processor(text=text, videos=[clips["video"]], audio=[clips["video"]])
        known = read(ours, clips["video"])
        frames = VideoProcessor.from_settings(ours.settings)(known.frames.frames)
        mels = AudioProcessor(ours.settings).process(known.sound).mel
        assert np.array_equal(inputs["pixel_values_videos"][0].numpy(), frames)
        assert np.array_equal(inputs["input_features"][0].numpy(), mels)
        assert inputs["pixel_values_videos"].shape == (1, 4, 3, 28, 28)
        assert inputs["input_features"].shape == (1, 3, 1, 16, 26)

    def test_a_batch_generates(self, processor, ours, clips):
        messages = [[user(medium(kind, clips[kind]), f"What {kind}?")] for kind in ("silent", "image")]
        inputs = processor.apply_chat_template(messages, **READY)
        assert [len(each) for each in inputs["pixel_values_videos"]] == [4, 1]
        shorter = inputs["attention_mask"].sum(dim=1).argmin()
        assert inputs["attention_mask"][shorter, 0] == 0
        assert inputs["attention_mask"][:, -1].all()
        ids = ours.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(ids[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
        for row, single in enumerate(messages):
            alone = processor.apply_chat_template(single, **READY)
            assert (
                alone["input_ids"][0].tolist() == inputs["input_ids"][row][inputs["attention_mask"][row] == 1].tolist()
            )

    def test_images(self, processor, clips):
        inputs = processor(text="<Image><video></Image> What?", images=[clips["image"]])
        assert inputs["pixel_values"].shape == (1, 3, 28, 28)

    def test_nothing(self, processor):
        with pytest.raises(ValueError, match="at least one input"):
            processor()

    def test_a_file_that_is_none(self, processor, tmp_path):
        with pytest.raises(MediaError):
            processor(text="<Video><video></Video>", videos=[tmp_path / "none.mp4"])

    def test_numpy_and_lists(self, processor, clips):
        inputs = processor(text="<video>", images=[clips["image"]], return_tensors="np", return_mm_token_type_ids=True)
        assert {type(value) for value in inputs.values()} == {np.ndarray}
        assert isinstance(processor(text="a", return_tensors=None)["input_ids"], list)
