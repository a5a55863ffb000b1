"""Fit a conversation into the model's context: drop whole old turns, keep all media.

The reference truncates the front of the embeddings instead, including BOS and media tokens (``Chat.answer``; golden
case gen_truncated).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from video_llama.conversation.conversation_video import Conversation, MediaMessage, Message
from video_llama.conversation.tokenization import EncodedPrompt, Tokenizer, encode_prompt
from video_llama.errors import ContextLengthError


def fit_history(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    max_new_tokens: int,
    num_video_tokens: int,
    num_audio_tokens: int,
) -> tuple[Conversation, EncodedPrompt]:
    """Return the conversation without its oldest turns, as many as must be dropped to fit, and its encoded prompt.

    A turn is a question with its answer. The last, unanswered turn is always kept. The media of dropped turns move, in
    order, to the front of the oldest remaining question, so that later questions can still refer to them and the order
    of the slots does not change. The given conversation is not modified.

    Raises ContextLengthError with the token counts if the media and the last question alone are too long, and
    ValueError if ``max_new_tokens`` leaves no room for a prompt.
    """
    room = context_length - max_new_tokens
    if room <= 0:
        raise ValueError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the context of {context_length}. Lower it."
        )

    def encode(candidate: Conversation) -> EncodedPrompt:
        prompt = candidate.prompt()
        return encode_prompt(tokenizer, prompt, num_video_tokens=num_video_tokens, num_audio_tokens=num_audio_tokens)

    def fits(num_dropped: int) -> bool:
        return len(encode(without_old_turns(conversation, num_dropped)).input_ids) <= room

    whole = encode(conversation)
    if len(whole.input_ids) <= room:
        return conversation, whole
    num_droppable = max(len(_turn_starts(conversation)) - 1, 0)
    shortest = encode(without_old_turns(conversation, num_droppable))
    if len(shortest.input_ids) > room:
        num_media_tokens = sum(span.length for span in shortest.spans)
        num_tokens = len(shortest.input_ids)
        raise ContextLengthError(
            f"The question needs {num_tokens:,} tokens ({num_tokens - num_media_tokens:,} of text, "
            f"{num_media_tokens:,} of media) and the answer up to {max_new_tokens:,}; the model's context length is "
            f"{context_length:,}. Shorten the question, give fewer media, or lower max_new_tokens."
        )
    num_dropped = bisect_left(range(1, num_droppable), True, key=fits) + 1
    kept = without_old_turns(conversation, num_dropped)
    return kept, encode(kept)


def without_old_turns(conversation: Conversation, num_dropped: int) -> Conversation:
    """Return the conversation from turn ``num_dropped`` on, with the media of the earlier turns at its front."""
    if num_dropped == 0:
        return conversation
    start = _turn_starts(conversation)[num_dropped]
    media: tuple[MediaMessage, ...] = tuple(m for message in conversation.messages[:start] for m in message.media)
    oldest, *rest = conversation.messages[start:]
    first = Message(oldest.role, (*media, *oldest.parts))
    return replace(conversation, messages=[first, *rest])


def _turn_starts(conversation: Conversation) -> list[int]:
    """Return the indices of the first message of each turn: a user message at the start or after an answer."""
    roles = [message.role for message in conversation.messages]
    user = conversation.template.roles[0]
    return [i for i, role in enumerate(roles) if role == user and (i == 0 or roles[i - 1] != user)]
