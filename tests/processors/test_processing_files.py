"""A processor saved alone, and that of an earlier folder."""

import json
import shutil

import pytest
import torch
from transformers import AutoProcessor

from tests.processors.prompts import READY, medium, user


class TestFolders:
    def test_saved_alone_and_read_again(self, processor, model_path, clips, tmp_path):
        processor.save_pretrained(tmp_path)
        known = json.loads((model_path / "processor_config.json").read_text())
        assert json.loads((tmp_path / "processor_config.json").read_text()) == known
        again = AutoProcessor.from_pretrained(tmp_path)
        assert type(again) is type(processor)
        messages = [user(medium("video", clips["video"]), "Hello  there###")]
        first, second = (each.apply_chat_template(messages, **READY) for each in (processor, again))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_of_an_earlier_version(self, processor, model_path, ours, tmp_path):
        """Without tokenizer.json and chat template, and with the media settings only."""
        folder = shutil.copytree(model_path, tmp_path / "old")
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name).unlink()
        settings = {name: getattr(ours.settings, name) for name in ours.settings.__dataclass_fields__}
        (folder / "processor_config.json").write_text(json.dumps(settings))
        old = AutoProcessor.from_pretrained(folder)
        assert type(old) is type(processor)
        assert old.to_dict() == processor.to_dict()
        messages = [user("Hello  there</s>")]
        inputs = old.apply_chat_template(messages, **READY)
        assert torch.equal(inputs["input_ids"], processor.apply_chat_template(messages, **READY)["input_ids"])

    def test_settings_are_attributes(self, processor):
        assert (processor.image_size, processor.num_video_query_tokens) == (
            28,
            processor.numbers.num_video_query_tokens,
        )
        assert processor.image_mean == list(processor.settings.image_mean)
        assert not hasattr(processor, "image_mode")

    def test_an_unknown_setting(self, processor):
        with pytest.raises(TypeError, match="Unexpected keyword argument num_frame"):
            type(processor)(processor.tokenizer, num_frame=3)
