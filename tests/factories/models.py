"""Tiny models with every part, and model folders around them. A model is built and runs on a CPU in under a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.factories.tokenizers import train_tokenizer
from video_llama.chat import Manifest, ProcessorSettings, read_model_folder, write_model_folder
from video_llama.checkpoints.place_rows import NUM_PLACES, PLACE_TABLES, with_place_rows
from video_llama.conversation import Tokenizer
from video_llama.models.configuration import VideoLlamaConfig, audio_tower_config
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

IMAGE_SIZE = 28
MEL_SIZE = (16, 26)
CONTEXT_LENGTH = 400
SETTINGS = ProcessorSettings(
    image_size=IMAGE_SIZE, num_frames=4, num_clips=3, num_mel_bins=MEL_SIZE[0], target_length=MEL_SIZE[1]
)
NOTICE = "Random weights of a test: every answer is noise."

VISION = dict(
    hidden_size=20,
    intermediate_size=36,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=IMAGE_SIZE,
    patch_size=14,
    initializer_range=0.2,
)
QFORMER = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    vocab_size=1,
    initializer_range=0.2,
)
TOWER = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, embedding_size=12)
AUDIO_TOWER = {**TOWER, "hidden_size": 24, "input_size": MEL_SIZE, "kernel_size": (8, 8), "stride": (4, 6)}
TEXT = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=CONTEXT_LENGTH,
    initializer_range=0.5,  # answers depend on the question
    pad_token_id=0,
)


def tiny_config(vocab_size: int, **overrides: Any) -> VideoLlamaConfig:
    """Return a configuration in which the dimensions differ from each other, so that a mistaken one cannot pass.

    The decoder has ``vocab_size`` tokens and rows for the two media places. A dict among ``overrides``
    (``text_config={"hidden_size": 64}``) changes only the keys that it names.
    """
    settings: dict[str, Any] = dict(
        vision_config=VISION,
        qformer_config=QFORMER,
        imagebind_vision_config={**TOWER, "input_size": (IMAGE_SIZE, IMAGE_SIZE)},
        imagebind_audio_config=audio_tower_config(**AUDIO_TOWER).to_dict(),
        text_config={**TEXT, "vocab_size": vocab_size + NUM_PLACES},
        num_query_tokens=4,
        num_video_query_tokens=5,
        num_audio_query_tokens=3,
        max_frame_pos=8,
        max_audio_pos=8,
        video_token_id=vocab_size,
        audio_token_id=vocab_size + 1,
        prompt_template="default",
        initializer_range=0.2,
    )
    for name, value in overrides.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    return VideoLlamaConfig(**settings)


def make_folder(path: Path, *, seed: int = 0, untrained_parts: tuple[str, ...] = (), **overrides: Any) -> Path:
    """Write the model folder of a tiny random model; ``overrides`` go to `tiny_config`."""
    tokenizer_path = train_tokenizer(path.with_name(f"{path.name}.tokenizer.model"))
    config = tiny_config(Tokenizer(tokenizer_path).vocab_size, **overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VideoLlamaForConditionalGeneration(config).eval()
    if config.text_config.vocab_size > config.video_token_id:
        tables = {model.get_parameter(name) for name in PLACE_TABLES}
        for table in tables:
            table.data = with_place_rows(table.data, config.video_token_id)
    manifest = Manifest("tiny", {"seed": seed}, untrained_parts, NOTICE)
    write_model_folder(path, model, tokenizer_path=tokenizer_path, settings=SETTINGS, manifest=manifest)
    return path


def make_talkative_folder(path: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """`make_folder` with a decoder that generates only words and never ends an answer, on any machine.

    The output rows of all other tokens (the end, stop strings, bytes) are zeros, so that their logits are 0; of two
    words' rows one is the other's negative, so that the greater of their logits is above 0.
    """
    folder = read_model_folder(make_folder(path, seed=seed, **overrides))
    tokenizer, rows_VD = folder.tokenizer, folder.model.lm_head.weight.data
    words = [token for token in range(tokenizer.vocab_size) if tokenizer.decode([token]).strip().isalpha()]
    others = [token for token in range(tokenizer.vocab_size) if token not in words]
    rows_VD[others] = 0
    rows_VD[words[1]] = -rows_VD[words[0]]
    tokenizer_path = path.with_name(f"{path.name}.tokenizer.model")
    write_model_folder(
        path, folder.model, tokenizer_path=tokenizer_path, settings=folder.settings, manifest=folder.manifest
    )
    return path
