"""A conversation in, one that fits the context out: old turns are dropped whole, media never.

The reference cuts the front of the embeddings instead, BOS and media tokens included (``Chat.answer``; case
gen_truncated).
"""

from __future__ import annotations

from bisect import bisect_left

from video_llama.conversation.conversation_video import Conversation, MediaMessage, Message
from video_llama.conversation.tokenization import EncodedPrompt, Tokenizer, encode_prompt
from video_llama.errors import PromptError


def fit_history(
    conversation: Conversation,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    max_new_tokens: int,
    num_video_tokens: int,
    num_audio_tokens: int,
) -> tuple[Conversation, EncodedPrompt]:
    """The conversation without as many of its oldest turns as it takes for prompt and answer to fit, and its ids.

    A turn is a question with its answer; the last, unanswered one always stays. The media of dropped turns stay as
    well: they move, in their order and whole, to the front of the oldest question kept, so that what was seen and
    heard can still be asked about and the order of the slots does not change. The conversation given stays as it is.

    Raises PromptError with the numbers when the media and the last question alone are too long, and ValueError when
    ``max_new_tokens`` leaves no room for any prompt.
    """
    room = context_length - max_new_tokens
    if room <= 0:
        raise ValueError(f"max_new_tokens {max_new_tokens} fills the whole context of {context_length}. Lower it.")

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
        raise PromptError(
            f"The question needs {num_tokens:,} tokens ({num_tokens - num_media_tokens:,} of text, "
            f"{num_media_tokens:,} of media) and the answer up to {max_new_tokens:,}; the model's context holds "
            f"{context_length:,}. Shorten the question, give fewer media, or lower max_new_tokens."
        )
    num_dropped = bisect_left(range(1, num_droppable), True, key=fits) + 1
    kept = without_old_turns(conversation, num_dropped)
    return kept, encode(kept)


def without_old_turns(conversation: Conversation, num_dropped: int) -> Conversation:
    """The conversation from its turn ``num_dropped`` on, with the media of the turns before at its front."""
    if num_dropped == 0:
        return conversation
    start = _turn_starts(conversation)[num_dropped]
    media: tuple[MediaMessage, ...] = tuple(m for message in conversation.messages[:start] for m in message.media)
    oldest, *rest = conversation.messages[start:]
    first = Message(oldest.role, (*media, *oldest.parts))
    return Conversation(conversation.template, conversation.system, [first, *rest])


def _turn_starts(conversation: Conversation) -> list[int]:
    """Where turns begin: at a user's message that follows an answer, or opens the conversation."""
    roles = [message.role for message in conversation.messages]
    user = conversation.template.roles[0]
    return [i for i, role in enumerate(roles) if role == user and (i == 0 or roles[i - 1] != user)]
