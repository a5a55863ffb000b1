"""The token ids of a given answer in its prompt, as training renders them, for computing its likelihood."""

from __future__ import annotations

from dataclasses import replace

from video_llama.conversation.conversation_video import Conversation
from video_llama.conversation.tokenization import EncodedPrompt, Tokenizer, encode_prompt
from video_llama.errors import PromptError


def scored_answer(
    tokenizer: Tokenizer, conversation: Conversation, answer: str, *, num_video_tokens: int, num_audio_tokens: int
) -> EncodedPrompt:
    """Return the prompt of a conversation that ends with a question, followed by ``answer`` without its end symbol.

    The ids before the answer equal those of the prompt, except that a tokenizer may merge the last one with the start
    of the answer. Raises PromptError for an empty answer.
    """
    if not answer.strip():
        raise PromptError("An answer to be scored is empty. Give a text.")
    answered = replace(conversation, messages=list(conversation.messages))
    answered.answer(answer)
    *rest, last = answered.prompt()
    assert isinstance(last, str), "the answer is a text"
    text = last[: last.rindex(conversation.template.stop_string)].rstrip()
    return encode_prompt(tokenizer, [*rest, text], num_video_tokens=num_video_tokens, num_audio_tokens=num_audio_tokens)
