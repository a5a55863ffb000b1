"""The chat template renders what ``Conversation`` renders."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from video_llama.conversation import TEMPLATES, Conversation, Slot, chat_template, media_message


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
