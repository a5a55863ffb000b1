"""The sentence of a prompt that represents a medium."""

from __future__ import annotations

from video_llama.conversation import MediaMessage, Slot, media_message
from video_llama.processors.medium import ReadMedium


def message_for(read: ReadMedium) -> MediaMessage:
    """The message that presents a medium to the model, with a slot for its frames and one for its sound."""
    audio = None if read.sound is None else Slot("audio")
    if read.frames is None:
        return media_message(audio=audio)
    if read.kind == "image":
        return media_message(image=Slot("video"))
    return media_message(video=Slot("video"), audio=audio, sentence=read.frames.message)
