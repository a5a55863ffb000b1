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
    Conversation,
    MediaMessage,
    Message,
    Prompt,
    Slot,
    Words,
    media_message,
    prompt_text,
    render,
)
from video_llama.conversation.fast_tokenizer import TOKENIZER_JSON, FastTokenizer, open_tokenizer_file
from video_llama.conversation.history import fit_history
from video_llama.conversation.jinja_template import chat_template
from video_llama.conversation.jinja_turns import turns_chat_template
from video_llama.conversation.scored_answer import scored_answer
from video_llama.conversation.templates import CHAT_TEMPLATE, TEMPLATES, Style, Template, chat_template_of, template_of
from video_llama.conversation.tokenization import (
    AUDIO_PLACE,
    TOKENIZER_MODEL,
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
from video_llama.conversation.turn_format import TurnFormat, derive_turn_format
from video_llama.conversation.user_text import TextGuard

__all__ = [
    "AUDIO_PLACE",
    "CHAT_TEMPLATE",
    "IGNORE_INDEX",
    "REFERENCE_DECODING",
    "TEMPLATES",
    "TOKENIZER_JSON",
    "TOKENIZER_MODEL",
    "VIDEO_PLACE",
    "Conversation",
    "EncodedPrompt",
    "FastTokenizer",
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
    "TurnFormat",
    "Words",
    "caption_example",
    "caption_ids",
    "caption_prompt",
    "caption_targets",
    "chat_template",
    "chat_template_of",
    "common_length",
    "derive_turn_format",
    "encode_prompt",
    "fit_history",
    "has_stop",
    "image_turns",
    "media_message",
    "open_tokenizer_file",
    "overlap",
    "pad_batch",
    "postprocess",
    "prompt_text",
    "prompt_wrap",
    "render",
    "scored_answer",
    "segment_ids",
    "stop_sequences",
    "template_of",
    "tokenizer_json",
    "training_example",
    "turns_chat_template",
    "video_turns",
]
