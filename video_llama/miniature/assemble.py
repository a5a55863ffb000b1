"""Write the miniature's model folders.

``write_base`` combines the pre-trained parts with untrained branches: the folder that training of the branches starts
from. ``write_weights`` adds the trained branches: the folder shipped with the package.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from video_llama.checkpoints.folder import Manifest, read_model_folder, write_model_folder
from video_llama.checkpoints.place_rows import add_place_rows
from video_llama.miniature.configuration import miniature_config, processor_settings
from video_llama.miniature.pretrain_vision import initialise
from video_llama.models.blip2 import FrameEncoder
from video_llama.models.imagebind import ImageBindTower
from video_llama.models.qformer import SequenceQFormer
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.merge import merge_into_folder

BRANCHES = ("model.video_qformer.", "model.audio_qformer.")
QUERY_STD = 0.5

NOTICE = (
    "The miniature is a small demonstration model. It was trained on synthetic clips only: one or two red, green, blue "
    "or yellow circles, squares, triangles or stars that move or stay still, and one sound for each shape. Its answers "
    "about anything else are meaningless."
)


@dataclass(frozen=True)
class Backbones:
    """The pre-trained parts, which stay frozen while the branches are trained."""

    language: LlamaForCausalLM
    frames: FrameEncoder
    imagebind_vision: ImageBindTower
    imagebind_audio: ImageBindTower


def write_base(folder: Path, backbones: Backbones, tokenizer_path: Path, seed: int) -> None:
    """Write the model folder that training of the branches starts from. Its branches are random."""
    torch.manual_seed(seed + 3)
    model = VideoLlamaForConditionalGeneration(miniature_config())
    body = model.model
    body.frame_encoder.load_state_dict(backbones.frames.state_dict())
    body.imagebind_vision.load_state_dict(backbones.imagebind_vision.state_dict())
    body.imagebind_audio.load_state_dict(backbones.imagebind_audio.state_dict())
    body.language_model.load_state_dict(backbones.language.model.state_dict())
    model.lm_head.load_state_dict(backbones.language.lm_head.state_dict())
    word_scale = body.get_input_embeddings().weight.std()
    for branch in (body.video_qformer, body.audio_qformer):
        _initialise_branch(branch, word_scale)
    add_place_rows(model)
    manifest = Manifest(
        name="miniature, branches untrained",
        sources={"seed": seed, "made by": "video-llama miniature train"},
        untrained_parts=BRANCHES,
        notice=NOTICE,
    )
    write_model_folder(folder, model, tokenizer_path=tokenizer_path, settings=processor_settings(), manifest=manifest)


def _initialise_branch(branch: SequenceQFormer, word_scale: Tensor) -> None:
    """Initialise a branch so that its output tokens have the scale of the word embeddings."""
    initialise(branch)
    with torch.no_grad():
        branch.query_tokens.normal_(std=QUERY_STD)
        # The scale of the encoders' normalised tokens. With smaller values motion and order are not learned.
        branch.position_embeddings.weight.normal_(std=1.0)
        branch.language_projection.weight.mul_(word_scale)


def write_weights(target: Path, base: Path, runs: list[Path], seed: int) -> None:
    """Merge the trained branches (``runs``) into ``base`` and write the result to ``target`` as float16."""
    merged = target.with_name(f"{target.name}.fp32")
    shutil.rmtree(merged, ignore_errors=True)
    merge_into_folder(runs, base, merged, name="miniature")
    folder = read_model_folder(merged)
    manifest = Manifest(name="miniature", sources=folder.manifest.sources | {"seed": seed}, notice=NOTICE)
    folder.model.half()  # type: ignore[no-untyped-call]
    write_model_folder(
        target, folder.model, tokenizer_path=merged / "tokenizer.model", settings=folder.settings, manifest=manifest
    )
