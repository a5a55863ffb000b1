"""The chat template and tokenizer files that transformers reads."""

import json

import pytest
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils.chat_template_utils import render_jinja_template

from tests.factories.tokenizers import train_tokenizer
from video_llama.checkpoints.tokenizer_files import chat_template, write_tokenizer_files
from video_llama.conversation import TEMPLATES, Conversation, Slot, Tokenizer, media_message


@pytest.mark.parametrize("name", ["default", "llama2"])
class TestChatTemplate:
    def rendered(self, name: str, messages: list[dict], answer: bool = True) -> str:
        texts, _ = render_jinja_template(
            conversations=[messages], chat_template=chat_template(name), add_generation_prompt=answer, bos_token="<s>"
        )
        return texts[0].replace("<video>", "<ImageHere>").replace("<audio>", "<ImageHere>")

    def test_text(self, name):
        conversation = Conversation(TEMPLATES[name])
        conversation.ask("Who's there?")
        messages = [{"role": "user", "content": "Who's there?"}]
        assert self.rendered(name, messages) == "<s>" + conversation.text()
        conversation.answer("Nobody.")
        messages.append({"role": "assistant", "content": "Nobody."})
        assert self.rendered(name, messages, answer=False) == "<s>" + conversation.text()
        conversation.ask("Sure?")
        messages.append({"role": "user", "content": [{"type": "text", "text": "Sure?"}]})
        assert self.rendered(name, messages) == "<s>" + conversation.text()

    @pytest.mark.parametrize("kinds", [("video",), ("image",), ("audio",), ("audio", "video"), ("video", "audio")])
    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_media(self, name, kinds, system):
        slots = {"video": Slot("video"), "image": Slot("video"), "audio": Slot("audio")}
        conversation = Conversation(TEMPLATES[name], system)
        conversation.add_media(media_message(**{kind: slots[kind] for kind in kinds}))
        conversation.ask("What is it?")
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": "What is it?"}]
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": content})
        assert self.rendered(name, messages) == "<s>" + conversation.text()

    def test_several_media(self, name):
        """A video and a sound with a file of its own are two media; the system text is a block."""
        conversation = Conversation(TEMPLATES[name], "Be brief.")
        conversation.add_media(media_message(video=Slot("video")))
        conversation.add_media(media_message(audio=Slot("audio")))
        conversation.add_media(media_message(video=Slot("video"), audio=Slot("audio")))
        conversation.ask("What is it?")
        conversation.answer("A square.")
        conversation.add_media(media_message(image=Slot("video")))
        conversation.ask("And this?")
        media = [{"type": "video"}, {"type": "audio", "path": "a.wav"}, {"type": "video"}, {"type": "audio"}]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [*media, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A square."}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
        ]
        assert self.rendered(name, messages) == "<s>" + conversation.text()

    def test_marks_of_answers(self, name):
        messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]
        messages += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
        texts, marks = render_jinja_template(
            conversations=[messages],
            chat_template=chat_template(name),
            return_assistant_tokens_mask=True,
            bos_token="<s>",
        )
        stop = {"default": "###", "llama2": " </s>"}[name]
        assert [texts[0][start:end] for start, end in marks[0]] == [f" Nobody.{stop}", f" Yes.{stop}"]


@pytest.mark.parametrize("pad_token", [None, "[PAD]"])
@pytest.mark.parametrize(("template", "stop_strings"), [("llama2", None), ("default", None)])
def test_files(tmp_path, pad_token, template, stop_strings):
    tokenizer = Tokenizer(train_tokenizer(tmp_path / "tokenizer.model"), pad_token=pad_token)
    write_tokenizer_files(tmp_path, tokenizer, pad_token, template)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["pad_token"] == (pad_token or "<unk>")
    assert (tmp_path / "chat_template.jinja").read_text() == chat_template(template)
    generation = GenerationConfig.from_pretrained(tmp_path)
    ids = (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id)
    assert ids == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert generation.stop_strings == stop_strings
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    special = [loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.pad_token_id]
    assert special == [tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id]
    assert loaded.convert_tokens_to_ids(["<video>", "<audio>"]) == [tokenizer.video_token_id, tokenizer.audio_token_id]
    assert len(loaded) == tokenizer.audio_token_id + 1
    for text in ("A red square.", "  two  spaces ", "###Human: a</s>b", "caf\u00e9 \u4f60\n", ""):
        assert loaded(text).input_ids == tokenizer.encode(text, add_bos=True)
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("###Human: a</s>b  c").input_ids == tokenizer.encode("###Human: a</s>b  c", add_bos=True)


def test_settings_of_the_generation_config_are_kept(tmp_path):
    tokenizer = Tokenizer(train_tokenizer(tmp_path / "tokenizer.model"))
    GenerationConfig(max_new_tokens=7).save_pretrained(tmp_path)
    write_tokenizer_files(tmp_path, tokenizer, None, "default")
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.max_new_tokens, generation.stop_strings) == (7, None)
