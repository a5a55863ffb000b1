"""transformers' processor, as AutoProcessor loads it from a model folder: ids and arrays are those of our own chat."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.chat import read_model_folder
from video_llama.chat.messages import message_for
from video_llama.checkpoints.tokenizer_files import write_tokenizer_files
from video_llama.conversation import TEMPLATES, Conversation, encode_prompt
from video_llama.errors import MediaError, PromptError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.medium import MediaOptions, read_medium
from video_llama.processors.video_processor import VideoProcessor


@pytest.fixture(scope="module")
def folder(model_path, tmp_path_factory):
    """A folder with the tokenizer's files that ``convert`` writes."""
    path = shutil.copytree(model_path, tmp_path_factory.mktemp("auto") / "model")
    read = read_model_folder(path)
    write_tokenizer_files(path, read.tokenizer, read.settings.pad_token, read.model.config.prompt_template)
    return path


@pytest.fixture(scope="module")
def processor(folder):
    from transformers import AutoProcessor

    import video_llama.chat.auto  # noqa: F401

    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(folder):
    return read_model_folder(folder)


def our_ids(ours, prompt):
    config = ours.model.config
    counts = dict(num_video_tokens=config.num_video_query_tokens, num_audio_tokens=config.num_audio_query_tokens)
    return encode_prompt(ours.tokenizer, prompt, **counts).input_ids


class TestIds:
    @pytest.mark.parametrize("style", ["default", "llama2"])
    @pytest.mark.parametrize("kind", ["video", "silent", "sound", "image"])
    def test_of_every_kind_of_medium(self, processor, ours, clips, style, kind):

        medium = read_medium(clips[kind], ours.settings, MediaOptions(), max_frames=8, with_audio_branch=True)
        said = Conversation(TEMPLATES[style])
        said.add_media(message_for(medium))
        said.ask("What do you  see, and hear?")
        said.answer("A red square.")
        said.ask(" And now?\nTell")
        assert processor.encode(said.text()) == our_ids(ours, said.prompt())

    @given(st.text(st.sampled_from("ab .\n#Zé你<s>/"), max_size=30))
    def test_of_any_words(self, processor, ours, words):
        if not words.strip():
            return
        said = Conversation(TEMPLATES["default"])
        said.ask(words)
        assert processor.encode(said.text()) == our_ids(ours, said.prompt())

    def test_of_the_chat_template(self, processor, ours):
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = processor.encode(text)
        assert ids.count(processor.video_token_id) == ours.model.config.num_video_query_tokens
        assert ids.count(ours.tokenizer.bos_id) == 1


class TestInputs:
    def test_arrays_are_those_of_chat(self, processor, ours, clips):

        text = "<ImageHere>. <Video><ImageHere></Video> What?"
        inputs = processor(text, videos=[clips["video"]], audio=[clips["video"]])
        medium = read_medium(clips["video"], ours.settings, MediaOptions(), max_frames=8, with_audio_branch=True)
        frames = VideoProcessor.from_settings(ours.settings)(medium.frames.frames)
        mels = AudioProcessor(ours.settings).process(medium.sound).mel
        assert np.array_equal(inputs["pixel_values_videos"][0].numpy(), frames)
        assert np.array_equal(inputs["input_features"][0].numpy(), mels)
        assert inputs["pixel_values_videos"].shape == (1, 4, 3, 28, 28)
        assert inputs["input_features"].shape == (1, 3, 1, 16, 26)

    def test_a_batch_generates(self, processor, ours, clips):
        texts = ["<Video><ImageHere></Video> What do you see?", "<Image><ImageHere></Image> What?"]
        inputs = processor(texts, videos=[clips["silent"], clips["image"]])
        assert [len(each) for each in inputs["pixel_values_videos"]] == [4, 1]
        shorter = inputs["attention_mask"].sum(dim=1).argmin()
        assert inputs["attention_mask"][shorter, 0] == 0
        assert inputs["attention_mask"][:, -1].all()
        ids = ours.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(ids[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])

    def test_images(self, processor, clips):
        inputs = processor("<Image><ImageHere></Image> What?", images=[clips["image"]])
        assert inputs["pixel_values_videos"].shape == (1, 1, 3, 28, 28)

    def test_more_places_than_media(self, processor, clips):
        with pytest.raises(PromptError, match="has 2 placeholders for video, but 1 media are given"):
            processor("<Video><ImageHere></Video><Video><ImageHere></Video>", videos=[clips["silent"]])

    def test_sound_without_a_place(self, processor, clips):
        with pytest.raises(PromptError, match="has 0 placeholders for audio, but 1 media are given"):
            processor("What?", audio=[clips["sound"]])

    def test_a_file_that_is_none(self, processor, tmp_path):
        with pytest.raises(MediaError):
            processor("<Video><ImageHere></Video>", videos=[tmp_path / "none.mp4"])


def test_saved_and_read_again(processor, folder, tmp_path):
    from transformers import AutoProcessor

    processor.save_pretrained(tmp_path)
    shutil.copyfile(folder / "config.json", tmp_path / "config.json")
    scalars = json.loads((folder / "processor_config.json").read_text())
    assert scalars.items() >= json.loads((tmp_path / "processor_config.json").read_text()).items()
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(processor)
    assert again.encode("<s> Hello there") == processor.encode("<s> Hello there")
