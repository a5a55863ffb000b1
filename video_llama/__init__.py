"""Video-LLaMA: an audio-visual language model that answers questions about videos, images and sound.

    import video_llama

    assistant = video_llama.load("miniature")
    chat = assistant.chat("clip.mp4")
    print(chat.ask("What happens in the video?").text)

Importing this package loads none of its modules. A public name is imported on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_llama.chat import Answer, Assistant, Chat, load
    from video_llama.errors import VideoLlamaError
    from video_llama.models.configuration import VideoLlamaConfig
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
    from video_llama.processors.video_processor import FrameSampling, read_video

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Assistant",
    "Chat",
    "FrameSampling",
    "VideoLlamaConfig",
    "VideoLlamaError",
    "VideoLlamaForConditionalGeneration",
    "__version__",
    "load",
    "read_video",
]

_HOME = {
    "Answer": "video_llama.chat",
    "Assistant": "video_llama.chat",
    "Chat": "video_llama.chat",
    "FrameSampling": "video_llama.processors.video_processor",
    "VideoLlamaConfig": "video_llama.models.configuration",
    "VideoLlamaError": "video_llama.errors",
    "VideoLlamaForConditionalGeneration": "video_llama.models.video_llama",
    "load": "video_llama.chat",
    "read_video": "video_llama.processors.video_processor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'video_llama' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
