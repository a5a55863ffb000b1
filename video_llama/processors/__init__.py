"""Media in, arrays out: frames, log-mel clips and captions. Importing it pulls in neither torch nor av."""

from video_llama.processors.audio_processor import (
    AudioClips,
    AudioProcessor,
    SoundTrack,
    open_track,
    read_waveform,
)
from video_llama.processors.sampling import FrameSampling, frame_indices
from video_llama.processors.text_processor import caption
from video_llama.processors.video_processor import SampledVideo, VideoProcessor, read_image, read_video

__all__ = [
    "AudioClips",
    "AudioProcessor",
    "FrameSampling",
    "SampledVideo",
    "SoundTrack",
    "VideoProcessor",
    "caption",
    "frame_indices",
    "open_track",
    "read_image",
    "read_video",
    "read_waveform",
]
