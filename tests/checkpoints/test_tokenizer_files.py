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
        return texts[0]

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


@pytest.mark.parametrize("pad_token", [None, "[PAD]"])
def test_files(tmp_path, pad_token):
    tokenizer = Tokenizer(train_tokenizer(tmp_path / "tokenizer.model"), pad_token=pad_token)
    write_tokenizer_files(tmp_path, tokenizer, pad_token, "llama2")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["pad_token"]) == ("LlamaTokenizer", pad_token or "<unk>")
    assert (tmp_path / "chat_template.jinja").read_text() == chat_template("llama2")
    generation = GenerationConfig.from_pretrained(tmp_path)
    ids = (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id)
    assert ids == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("A red square.").input_ids[1:] == tokenizer.encode("A red square.")
