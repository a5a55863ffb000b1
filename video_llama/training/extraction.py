"""Compute the cached features of a run in advance, so that the run starts without delay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.config import load_config, require_filled
from video_llama.errors import ConfigError
from video_llama.training.config import TrainConfig
from video_llama.training.data import check_model_settings, features_folder, training_sets
from video_llama.training.distributed import world
from video_llama.training.stages import stage_of
from video_llama.training.starting_model import load_starting_model


@dataclass(frozen=True)
class ExtractedFeatures:
    """The folder of the features, the number of samples of each data set, and the duration in seconds."""

    features_dir: Path
    num_samples: dict[str, int]
    seconds: float


def extract_features(path: str | Path, overrides: Sequence[str] = ()) -> ExtractedFeatures:
    """Compute the features that the run of a YAML file will read; existing features are kept.

    Raises ConfigError if the YAML does not cache features, and the errors of ``train_from_config``.
    """
    config = load_config(TrainConfig, path, overrides)
    require_filled(config, source=str(path))
    if not config.run.cache_features:
        raise ConfigError(
            f"{path}: run.cache_features is false, so the run would not use the features. Set it to true."
        )
    start = time.perf_counter()
    with world(config.run.device) as this:
        folder = load_starting_model(config, str(path), this.device)
        check_model_settings(config.model, folder)
        stage = stage_of(config.model)
        sets = [*training_sets("datasets", config, folder, stage, this)]
        sets += training_sets("valid", config, folder, stage, this)
    num_samples = {each.name: len(each.samples) for each in sets}
    return ExtractedFeatures(features_folder(config.run), num_samples, time.perf_counter() - start)
