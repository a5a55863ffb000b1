"""Messages of transformers' chat format, and the same conversation as our own chat renders it."""

from video_llama.conversation import TEMPLATES, Conversation, TextGuard, encode_prompt
from video_llama.processors.medium import MediaOptions, read_medium

STYLES = ("default", "llama2")
READY = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
"""Arguments of apply_chat_template for the inputs of ``generate``."""


def read(ours, path, **options):
    settings = MediaOptions(**options)
    return read_medium(path, ours.settings, settings, max_frames=8, with_audio_branch=True)


def new_conversation(ours, style, system=None):
    guard = TextGuard.of(TEMPLATES[style], [*ours.tokenizer.special_texts, "<video>", "<audio>"])
    return Conversation(TEMPLATES[style], system, guard=guard)


def counts(ours):
    config = ours.model.config
    return dict(num_video_tokens=config.num_video_query_tokens, num_audio_tokens=config.num_audio_query_tokens)


def our_ids(ours, said):
    return encode_prompt(ours.tokenizer, said.prompt(), **counts(ours)).input_ids


def user(*blocks):
    return {"role": "user", "content": [{"type": "text", "text": b} if isinstance(b, str) else b for b in blocks]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def medium(kind, path):
    return {"type": {"silent": "video", "sound": "audio", "frames": "video"}.get(kind, kind), "path": str(path)}
