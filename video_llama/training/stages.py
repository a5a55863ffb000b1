"""Determine which parameters are trained, from the freezing flags.

Source: the reference's models/video_llama.py (``__init__``: the flags; ``train_flag``); golden/full_keys.json lists
the trained parameters of its recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.errors import ConfigError
from video_llama.training.config import ModelConfig
from video_llama.training.lora import LORA_MARK

if TYPE_CHECKING:
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

VISION_ENCODER = "model.frame_encoder."
DECODER = ("model.language_model.", "lm_head.")
_OF_BRANCH: dict[Branch, tuple[str, ...]] = {
    "vision": (VISION_ENCODER, "model.video_qformer."),
    "audio": ("model.imagebind_vision.", "model.audio_qformer."),
}


@dataclass(frozen=True)
class Stage:
    """Name prefixes of the trained parameters, the trained branches, and whether the decoder has adapters."""

    trained: tuple[str, ...]
    branches: tuple[Branch, ...]
    has_adapters: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the trained parts, for logging."""
        return (*self.trained, *(("the decoder's adapters",) if self.has_adapters else ()))

    def trains(self, name: str) -> bool:
        """Return whether the parameter of this name is trained."""
        return name.startswith(self.trained) or (self.has_adapters and LORA_MARK in name)

    @property
    def may_leave_parts_unused(self) -> bool:
        """Whether a batch for one branch gives no gradient to the trained parts of the other."""
        return len({part.split(".")[1] for part in self.trained} & {"video_qformer", "audio_qformer"}) > 1

    @property
    def encoders_are_frozen(self) -> bool:
        """Whether frames are encoded without gradients, so that their features can be cached."""
        return not any(part.startswith(VISION_ENCODER) for part in self.trained)

    def reads(self, part: str) -> bool:
        """Return whether the loss depends on a part: not on an untrained branch and ImageBind's audio encoder."""
        unread = [
            prefix for branch, prefixes in _OF_BRANCH.items() if branch not in self.branches for prefix in prefixes
        ]
        return not part.startswith((*unread, "model.imagebind_audio."))

    def branch_of(self, config: DatasetConfig, where: str) -> Branch:
        """Return the branch of a data set. Raises ConfigError if it is frozen, or unset while both are trained."""
        if config.branch is None:
            if len(self.branches) == 1:
                return self.branches[0]
            raise ConfigError(
                f"{where}.branch: both branches are trained. Set the branch of this data set: vision or audio."
            )
        if config.branch not in self.branches:
            raise ConfigError(f"{where}.branch: the {config.branch} branch is frozen. Remove the data set.")
        return config.branch


def stage_of(config: ModelConfig) -> Stage:
    """Return the stage of the freezing flags. Raises ConfigError if everything is frozen."""
    trained: list[str] = []
    branches: list[Branch] = []
    if not config.freeze_vit:
        trained.append(f"{VISION_ENCODER}vision_model.")
    if not config.freeze_qformer:
        trained += [f"{VISION_ENCODER}qformer.", f"{VISION_ENCODER}query_tokens"]
    if not config.frozen_video_Qformer:
        trained += [f"model.video_qformer.{part}" for part in ("qformer.", "query_tokens", "position_embeddings.")]
    if not config.frozen_llama_proj:
        trained.append("model.video_qformer.language_projection.")
    if trained:
        branches.append("vision")
    if not config.frozen_audio_Qformer:
        trained.append("model.audio_qformer.")
        branches.append("audio")
    trains_decoder = config.lora is not None or not config.freeze_llama
    if not trained and not trains_decoder:
        raise ConfigError(
            "model: all parameters are frozen. Set frozen_video_Qformer and frozen_llama_proj (vision), or "
            "frozen_audio_Qformer (audio) to false, or set lora."
        )
    if not config.freeze_llama:
        trained += DECODER
    return Stage(tuple(trained), tuple(branches) or ("vision", "audio"), has_adapters=config.lora is not None)


def freeze(model: VideoLlamaForConditionalGeneration, stage: Stage) -> dict[str, tuple[int, ...]]:
    """Enable gradients for the trained parameters of a stage only; return their names and shapes.

    Raises ConfigError if the model does not have a trained part, such as the audio branch.
    """
    names = dict(model.named_parameters())
    for part in stage.trained:
        if not any(name.startswith(part) for name in names):
            raise ConfigError(f"model: the model folder has no {part} to train. Use a folder with this part.")
    for name, parameter in names.items():
        parameter.requires_grad_(stage.trains(name))
    return {name: tuple(parameter.shape) for name, parameter in names.items() if parameter.requires_grad}
