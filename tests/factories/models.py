"""What the tests of the conversation are made of: a tokenizer trained here, a tiny model, media written with PyAV."""

import io
import wave
from pathlib import Path

import av
import numpy as np

from video_llama.chat import Manifest, ProcessorSettings, write_model_folder

NUM_PIECES = 380
IMAGE_SIZE = 28
SETTINGS = ProcessorSettings(image_size=IMAGE_SIZE, num_frames=4, num_clips=3)
NOTICE = "Random weights of a test: every answer is noise."
SENTENCES = (
    "A red square moves to the left. A blue circle moves up and a green triangle stays where it is.",
    "What do you see in the video? What do you hear? Describe the sound, the colour and the shape.",
    "###Human: <Video></Video> The video contains 8 frames sampled at 0.0, 1.2, 3.4 seconds. ###Assistant: ",
    "Close your eyes, open your ears and you imagine only based on the sound that: now answer my question.",
)
CONTEXT_LENGTH = 400


def train_tokenizer(path: Path, num_pieces: int = NUM_PIECES) -> Path:
    """A SentencePiece model with byte fallback, as LLaMA's, from a few sentences."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=num_pieces,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


def tiny_config(vocab_size: int, **overrides):
    from video_llama.models.configuration import VideoLlamaConfig, audio_tower_config

    narrow = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2)
    audio = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, embedding_size=12, stride=(16, 16))
    text = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_hidden_layers=2, initializer_range=0.5)
    settings = dict(
        vision_config=dict(**narrow, image_size=IMAGE_SIZE, num_hidden_layers=1, initializer_range=0.2),
        qformer_config=dict(**narrow, num_hidden_layers=2, initializer_range=0.2),
        imagebind_audio_config=audio_tower_config(**audio),
        text_config=dict(**text, vocab_size=vocab_size, max_position_embeddings=CONTEXT_LENGTH),
        num_query_tokens=4,
        num_video_query_tokens=5,
        num_audio_query_tokens=3,
        max_frame_pos=8,
        video_token_id=vocab_size,
        audio_token_id=vocab_size + 1,
        prompt_template="default",
        initializer_range=0.2,
    )
    return VideoLlamaConfig(**{**settings, **overrides})


def make_folder(path: Path, *, seed: int = 0, untrained_parts: tuple[str, ...] = (), **overrides) -> Path:
    """Write the folder of a tiny random model; ``overrides`` go into its configuration."""
    import torch

    from video_llama.conversation import Tokenizer
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

    tokenizer_path = train_tokenizer(path.with_name(f"{path.name}.tokenizer.model"))
    config = tiny_config(Tokenizer(tokenizer_path).vocab_size, **overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VideoLlamaForConditionalGeneration(config).eval()
    manifest = Manifest("tiny", {"seed": seed}, untrained_parts, NOTICE)
    write_model_folder(path, model, tokenizer_path=tokenizer_path, settings=SETTINGS, manifest=manifest)
    return path


def write_video(
    path: Path,
    rng: np.random.Generator,
    *,
    seconds: float = 1.0,
    size: tuple[int, int] = (48, 64),
    tone: np.ndarray | None = None,
    num_frames: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """An mp4 (H.264, 10 frames a second) of noise, with AAC where ``tone`` (16 kHz) is given."""
    with av.open(str(path), "w", format="mp4", options=options or {}) as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = None
        if tone is not None:
            audio = container.add_stream("aac", rate=16000, layout="mono")
        for index in range(round(seconds * 10) if num_frames is None else num_frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(tone[None, :], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """A 16-bit mono wav."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_media(folder: Path, rng: np.random.Generator) -> dict[str, Path]:
    """A "video" with sound, a "silent" one, a "sound" and an "image"."""
    from PIL import Image

    tone = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)
    paths = {
        "video": write_video(folder / "with sound.mp4", rng, seconds=3, tone=tone),
        "silent": write_video(folder / "silent.mp4", rng, seconds=2),
        "sound": write_wav(folder / "tone.wav", tone),
        "image": folder / "picture.png",
    }
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(paths["image"])
    return paths
