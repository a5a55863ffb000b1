"""Branch and freezing flags decide what trains: the one place that knows.

Source: the reference's models/video_llama.py (``__init__``: the flags; ``train_flag``); golden/full_keys.json lists
what trains in each of its recipes.
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
    """Beginnings of the names of what trains, the branches that so learn, and whether the decoder has adapters."""

    trained: tuple[str, ...]
    branches: tuple[Branch, ...]
    has_adapters: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """What trains, for a log line."""
        return (*self.trained, *(("the decoder's adapters",) if self.has_adapters else ()))

    def trains(self, name: str) -> bool:
        """Whether a parameter of this name trains."""
        return name.startswith(self.trained) or (self.has_adapters and LORA_MARK in name)

    @property
    def may_leave_parts_unused(self) -> bool:
        """Whether a batch of one branch leaves the trained parts of the other without a gradient."""
        return len({part.split(".")[1] for part in self.trained} & {"video_qformer", "audio_qformer"}) > 1

    @property
    def encoders_are_frozen(self) -> bool:
        """Whether frames can be encoded without gradients, and so once."""
        return not any(part.startswith(VISION_ENCODER) for part in self.trained)

    def reads(self, part: str) -> bool:
        """Whether what trains depends on a part of the model: all but the other branch and the sound's tower."""
        unread = [
            prefix for branch, prefixes in _OF_BRANCH.items() if branch not in self.branches for prefix in prefixes
        ]
        return not part.startswith((*unread, "model.imagebind_audio."))

    def branch_of(self, config: DatasetConfig, where: str) -> Branch:
        """The branch that reads a data set. Raises ConfigError where two train and none is named, or it does not."""
        if config.branch is None:
            if len(self.branches) == 1:
                return self.branches[0]
            raise ConfigError(
                f"{where}.branch: both branches may read this data set. Say which one does: vision or audio."
            )
        if config.branch not in self.branches:
            raise ConfigError(f"{where}.branch: the {config.branch} branch is frozen here. Take the data set out.")
        return config.branch


def stage_of(config: ModelConfig) -> Stage:
    """What trains under the flags. Raises ConfigError where nothing does."""
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
            "model: everything is frozen. Set frozen_video_Qformer and frozen_llama_proj (vision), or "
            "frozen_audio_Qformer (audio) to false, or give lora."
        )
    if not config.freeze_llama:
        trained += DECODER
    return Stage(tuple(trained), tuple(branches) or ("vision", "audio"), has_adapters=config.lora is not None)


def freeze(model: VideoLlamaForConditionalGeneration, stage: Stage) -> dict[str, tuple[int, ...]]:
    """Let the stage's parameters train and no others; return their names and shapes.

    Raises ConfigError where the model has none of a part, as an audio branch that it was built without.
    """
    names = dict(model.named_parameters())
    for part in stage.trained:
        if not any(name.startswith(part) for name in names):
            raise ConfigError(f"model: this model folder has no {part} to train. Use a folder that has it.")
    for name, parameter in names.items():
        parameter.requires_grad_(stage.trains(name))
    return {name: tuple(parameter.shape) for name, parameter in names.items() if parameter.requires_grad}
