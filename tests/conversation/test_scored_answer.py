"""A given answer in its prompt: the ids that training uses, without the end symbol."""

import pytest

from video_llama.conversation import (
    TEMPLATES,
    Conversation,
    Slot,
    TrainingTurn,
    encode_prompt,
    media_message,
    scored_answer,
    training_example,
)
from video_llama.errors import PromptError

COUNTS = {"num_video_tokens": 4, "num_audio_tokens": 2}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_ids_are_those_of_training_up_to_the_end_symbol(tokenizer, template):
    media = media_message(video=Slot("video"), audio=Slot("audio"))
    conversation = Conversation(TEMPLATES[template])
    conversation.add_media(media)
    conversation.ask("What colour is it?")
    trained = training_example(
        tokenizer, [TrainingTurn("What colour is it?", "a red circle", (media,))], template=template, **COUNTS
    )
    scored = scored_answer(tokenizer, conversation, "a red circle", **COUNTS)
    assert trained.input_ids[: len(scored.input_ids)] == scored.input_ids
    assert tokenizer.decode(scored.input_ids).endswith("a red circle")
    prompt = encode_prompt(tokenizer, conversation.prompt(), **COUNTS).input_ids
    assert scored.input_ids[: len(prompt)] == prompt
    assert len(conversation.messages) == 1


def test_an_empty_answer_is_refused(tokenizer):
    conversation = Conversation(TEMPLATES["default"])
    conversation.ask("What?")
    with pytest.raises(PromptError, match="An answer to be scored is empty"):
        scored_answer(tokenizer, conversation, " ", **COUNTS)
