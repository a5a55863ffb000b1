"""A model of 0.6 billion parameters in every part, as a folder without weights: config, tokenizer and settings.

python benchmarks/mid_size_model.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from video_llama.checkpoints.folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    PROCESSOR_FILE,
    Manifest,
    write_model_folder,
)
from video_llama.conversation import TOKENIZER_MODEL, Tokenizer
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.processors.settings import ProcessorSettings

TOKENIZER = Path(__file__).resolve().parent.parent / "video_llama" / "miniature" / "weights" / TOKENIZER_MODEL


def mid_size_config(tokenizer: Tokenizer) -> VideoLlamaConfig:
    """Return the configuration: a ViT-B, the published Q-Formers, a decoder with 16 layers of width 1024."""
    return VideoLlamaConfig(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 14,
        },
        imagebind_vision_config={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
        text_config={
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "vocab_size": tokenizer.vocab_size,
            "max_position_embeddings": 2048,
        },
        video_token_id=tokenizer.video_token_id,
        audio_token_id=tokenizer.audio_token_id,
        prompt_template="default",
        with_imagebind_vision=True,
        dtype="float32",
    )


def write_folder(path: Path) -> Path:
    """Write the folder and return it."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.copy(TOKENIZER, path / TOKENIZER_MODEL)
    config = mid_size_config(Tokenizer(TOKENIZER))
    files = {
        CONFIG_FILE: config.to_dict(),
        PROCESSOR_FILE: asdict(ProcessorSettings()),
        MANIFEST_FILE: asdict(Manifest("mid-sized", untrained_parts=("model.",))),
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def write_random_folder(path: Path, dtype: torch.dtype) -> Path:
    """Write the folder with random weights that answers with words: for measurements of speed only."""
    tokenizer = Tokenizer(TOKENIZER)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VideoLlamaForConditionalGeneration(mid_size_config(tokenizer)).eval()
        # Only words can be generated: answers do not end early, and each token is shown at once.
        is_word = torch.tensor([tokenizer.decode([index]).isalpha() for index in range(tokenizer.vocab_size)])
        model.lm_head.weight.data[~is_word] = 0.0
    manifest = Manifest("random-mid-sized", notice="Random weights, for measurements: every answer is noise.")
    write_model_folder(path, model.to(dtype), tokenizer_path=TOKENIZER, settings=ProcessorSettings(), manifest=manifest)
    return path


if __name__ == "__main__":
    print(write_folder(Path(sys.argv[1])))
