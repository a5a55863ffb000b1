"""Prompts, tokenisation, training texts and answers. Plain Python lists and strings; this package imports no torch."""

from video_llama.conversation.answer import (
    REFERENCE_DECODING,
    StreamDecoder,
    has_stop,
    overlap,
    postprocess,
    stop_sequences,
)
from video_llama.conversation.caption_text import (
    caption_example,
    caption_ids,
    caption_prompt,
    caption_targets,
    prompt_wrap,
)
from video_llama.conversation.conversation_video import (
    TEMPLATES,
    Conversation,
    MediaMessage,
    Message,
    Prompt,
    Slot,
    Style,
    Template,
    Words,
    media_message,
    prompt_text,
    render,
)
from video_llama.conversation.history import fit_history
from video_llama.conversation.jinja_template import chat_template
from video_llama.conversation.scored_answer import scored_answer
from video_llama.conversation.tokenization import (
    AUDIO_PLACE,
    VIDEO_PLACE,
    EncodedPrompt,
    Span,
    Tokenizer,
    common_length,
    encode_prompt,
    segment_ids,
)
from video_llama.conversation.tokenizer_json import tokenizer_json
from video_llama.conversation.training_examples import (
    IGNORE_INDEX,
    PaddedBatch,
    TrainingExample,
    TrainingTurn,
    image_turns,
    pad_batch,
    video_turns,
)
from video_llama.conversation.training_text import training_example
from video_llama.conversation.user_text import TextGuard

__all__ = [
    "AUDIO_PLACE",
    "IGNORE_INDEX",
    "REFERENCE_DECODING",
    "TEMPLATES",
    "VIDEO_PLACE",
    "Conversation",
    "EncodedPrompt",
    "MediaMessage",
    "Message",
    "PaddedBatch",
    "Prompt",
    "Slot",
    "Span",
    "StreamDecoder",
    "Style",
    "Template",
    "TextGuard",
    "Tokenizer",
    "TrainingExample",
    "TrainingTurn",
    "Words",
    "caption_example",
    "caption_ids",
    "caption_prompt",
    "caption_targets",
    "chat_template",
    "common_length",
    "encode_prompt",
    "fit_history",
    "has_stop",
    "image_turns",
    "media_message",
    "overlap",
    "pad_batch",
    "postprocess",
    "prompt_text",
    "prompt_wrap",
    "render",
    "scored_answer",
    "segment_ids",
    "stop_sequences",
    "tokenizer_json",
    "training_example",
    "video_turns",
]
