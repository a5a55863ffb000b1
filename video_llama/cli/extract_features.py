"""``video-llama extract-features CONFIG``: compute the frozen encoders' features before a training run."""

from __future__ import annotations

import typer

from video_llama.cli.options import RunYaml, TrainOverrides


def extract_features(config: RunYaml, overrides: TrainOverrides = None) -> None:
    """Precompute the features of the frozen encoders for a training run.

    Each media file is encoded once. The YAML file must set run.cache_features. Prints the number of samples per data
    set and the folder that training reads.
    """
    from video_llama.training.extraction import extract_features

    extracted = extract_features(config, overrides or [])
    for name, count in extracted.num_samples.items():
        typer.echo(f"{name}: {count} samples")
    typer.echo(f"{extracted.features_dir}  ({extracted.seconds:.1f} s)")
