"""Train the miniature from scratch: tokenizer, clips, frozen parts, both branches in two stages each, weights.

Input: a seed and an empty folder. Output: that folder with the files of every stage, and ``weights/``, a model folder.
Independent stages run in parallel. An interrupted stage is resumed from its checkpoint; a finished one is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from video_llama.config import load_yaml
from video_llama.errors import CheckpointError
from video_llama.files import new_folder
from video_llama.miniature.assemble import Backbones, write_base, write_weights
from video_llama.miniature.dataset import write_training_clips
from video_llama.miniature.familiarity import write_familiarity_of
from video_llama.miniature.pretrain_imagebind import bind
from video_llama.miniature.pretrain_language import LANGUAGE, pretrain_language
from video_llama.miniature.pretrain_vision import pretrain_frames, pretrain_tower
from video_llama.miniature.stage_runner import BuildStage, run_stages
from video_llama.miniature.tokenizer import train_tokenizer
from video_llama.models.cpu import emulates_bfloat16
from video_llama.training.run import train_from_config

DEFAULT_ROOT = Path("runs/miniature")
"""The folder that the paths in ``train_configs/miniature/*.yaml`` start with."""


def _make_tokenizer(root: Path, seed: int) -> None:
    train_tokenizer(root / "tokenizer.model", seed)


def _make_language(root: Path, seed: int) -> None:
    pretrain_language(root / "tokenizer.model", root, seed)


def _make_frames(root: Path, seed: int) -> None:
    pretrain_frames(root / "frames", seed)


def _make_imagebind(root: Path, seed: int) -> None:
    bind(pretrain_tower(root / "imagebind_vision", seed), root / "imagebind", seed)


def _make_data(root: Path, seed: int) -> None:
    write_training_clips(root, seed=seed, workers=1)


def _make_base(root: Path, seed: int) -> None:
    tokenizer_path = root / "tokenizer.model"
    vision, audio = bind(pretrain_tower(root / "imagebind_vision", seed), root / "imagebind", seed)
    language = pretrain_language(tokenizer_path, root, seed)
    backbones = Backbones(language, pretrain_frames(root / "frames", seed), vision, audio)
    write_base(root / "base", backbones, tokenizer_path, seed)


def _make_weights(root: Path, seed: int) -> None:
    write_weights(root / "weights", root / "base", [root / "vision2", root / "audio2"], seed)
    write_familiarity_of(root / "weights", seed=seed)


@dataclass(frozen=True)
class _TrainBranch:
    """``make`` of a stage that runs the trainer. A class, because worker processes receive it by pickling."""

    config_name: str

    def __call__(self, root: Path, seed: int) -> None:
        overrides = [*moved_paths(self.config_name, root), *precision(torch.device("cpu")), f"run.seed={seed}"]
        train_from_config(config_path(self.config_name), overrides, resume="auto")


STAGES: dict[str, BuildStage] = {
    "tokenizer": BuildStage((), _make_tokenizer),
    "language": BuildStage(("tokenizer",), _make_language, tuple(phase.name for phase in reversed(LANGUAGE))),
    "frames": BuildStage((), _make_frames),
    "imagebind": BuildStage((), _make_imagebind, ("imagebind", "imagebind_vision")),
    "data": BuildStage((), _make_data),
    "base": BuildStage(("language", "frames", "imagebind"), _make_base),
    "vision1": BuildStage(("base", "data"), _TrainBranch("visionbranch_stage1_pretrain")),
    "vision2": BuildStage(("vision1",), _TrainBranch("visionbranch_stage2_finetune")),
    "audio1": BuildStage(("base", "data"), _TrainBranch("audiobranch_stage1_pretrain")),
    "audio2": BuildStage(("audio1",), _TrainBranch("audiobranch_stage2_finetune")),
    "weights": BuildStage(("vision2", "audio2"), _make_weights),
}


def config_path(name: str) -> Path:
    """Return the path of a training YAML, in the installed package or in ``train_configs/miniature`` of the checkout.

    Raises CheckpointError if it is in neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "train_configs", package.parents[1] / "train_configs" / "miniature"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise CheckpointError(f"train_configs/miniature/{name}.yaml is missing. Reinstall the package.")


def precision(device: torch.device) -> list[str]:
    """Return the override of the recipes' bf16 for a device that would emulate it."""
    return ["run.dtype=fp32"] if emulates_bfloat16(device) else []


def moved_paths(name: str, root: Path) -> list[str]:
    """Return overrides that replace ``runs/miniature`` by ``root`` in all paths of a training YAML."""

    def walk(value: object, keys: tuple[str, ...]) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, (*keys, str(key)))
        elif isinstance(value, str) and value.startswith(f"{DEFAULT_ROOT}/"):
            yield f"{'.'.join(keys)}={root / Path(value).relative_to(DEFAULT_ROOT)}"

    return list(walk(load_yaml(config_path(name)), ()))


def train_miniature(root: str | Path = DEFAULT_ROOT, *, seed: int = 0, workers: int = 2) -> Path:
    """Train the miniature, resuming what is unfinished, and return the folder of the weights.

    Args:
        root: folder for the files of all stages.
        seed: random seed of data, initial weights and batches.
        workers: number of stages that run in parallel, each on one core.

    Raises:
        CheckpointError: ``root`` was made with another seed.
    """
    root = Path(root)
    run_stages(root, STAGES, seed=seed, workers=workers)
    return root / "weights"


def install_weights(weights: Path) -> Path:
    """Replace the weights shipped with the package by those in ``weights``, and return the folder in the package."""
    target = Path(__file__).resolve().parent / "weights"
    with new_folder(target) as unfinished:
        shutil.copytree(weights, unfinished, dirs_exist_ok=True)
    return target
