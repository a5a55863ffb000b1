"""Conversations about media: load a model, ask questions, stream the answers.

The command line, the web demo and the HTTP server are built on this package.

    assistant = load("my-model")
    chat = assistant.chat("clip.mp4")
    print(chat.ask("What happens in the video?").text)
"""

from video_llama.chat.assistant import Assistant
from video_llama.chat.asynchronous import AsyncChat
from video_llama.chat.attention import QueryAttention
from video_llama.chat.decoding import Decoding
from video_llama.chat.likelihood import AnswerScore
from video_llama.chat.loading import load, model_path
from video_llama.chat.record import Answer, Record
from video_llama.chat.session import AnswerStream, Chat
from video_llama.chat.timeline import Timeline, WindowAnswer
from video_llama.chat.timeline_formats import TimelineEntry
from video_llama.checkpoints.folder import Manifest, ModelFolder, read_model_folder, write_model_folder
from video_llama.processors.medium import MediaOptions, ReadMedium
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.subtitles import Subtitles, read_subtitles
from video_llama.processors.windows import WindowPlan

__all__ = [
    "Answer",
    "AnswerScore",
    "AnswerStream",
    "Assistant",
    "AsyncChat",
    "Chat",
    "Decoding",
    "Manifest",
    "MediaOptions",
    "ModelFolder",
    "ProcessorSettings",
    "QueryAttention",
    "ReadMedium",
    "Record",
    "ScenePlan",
    "Subtitles",
    "Timeline",
    "TimelineEntry",
    "WindowAnswer",
    "WindowPlan",
    "load",
    "model_path",
    "read_model_folder",
    "read_subtitles",
    "write_model_folder",
]
