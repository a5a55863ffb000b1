"""What the frozen encoders say of every medium, computed before a run: the run then starts with its first step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_llama.config import load_config, require_filled
from video_llama.errors import ConfigError
from video_llama.training.config import TrainConfig
from video_llama.training.stages import stage_of


@dataclass(frozen=True)
class Extracted:
    """Where the features lie, and how many samples of each data set they are of."""

    features_dir: Path
    num_samples: dict[str, int]
    seconds: float


def extract_features(path: str | Path, overrides: Sequence[str] = ()) -> Extracted:
    """Fill the folder of features that the run of this YAML reads; what is there already is kept.

    Raises ConfigError for a YAML that does not cache features, and as ``train_from_config`` does.
    """
    from video_llama.training.distributed import world
    from video_llama.training.mixture import check_model, training_sets
    from video_llama.training.run import load_folder

    config = load_config(TrainConfig, path, overrides)
    require_filled(config, source=str(path))
    if not config.run.cache_features:
        raise ConfigError(f"{path}: run.cache_features is false, so the run would not read them. Set it to true.")
    start = time.perf_counter()
    with world(config.run.device) as this:
        folder = load_folder(config, str(path), this)
        check_model(config.model, folder)
        stage = stage_of(config.model)
        sets = [*training_sets("datasets", config, folder, stage, this)]
        sets += training_sets("valid", config, folder, stage, this)
    features_dir = config.run.features_dir or config.run.output_dir / "features"
    return Extracted(features_dir, {each.name: len(each.samples) for each in sets}, time.perf_counter() - start)
