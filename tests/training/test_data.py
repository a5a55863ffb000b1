"""Training sets of whole runs: sound, videos with sound, cached features, and settings that contradict the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import moved_by
from video_llama.errors import ConfigError
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


@pytest.mark.slow
def test_the_audio_branch_learns_from_sound_alone_and_mixed_with_frames(
    write_yaml: Write, losses: Losses, own: Callable[..., dict[str, Any]], base: Path
) -> None:
    sound = own("audio")
    for name, datasets in (
        ("alone", {"sound": sound}),
        ("mixed", {"sound": sound, "frames": own("video", name="frames")}),
    ):
        runs = [
            train_from_config(
                write_yaml(
                    "audio",
                    name=f"{name}{cached}",
                    datasets=datasets,
                    run={"cache_features": cached, "weight_decay": 0},  # only gradients change weights
                )
            )
            for cached in (True, False)
        ]
        assert losses(runs[0]) == losses(runs[1])
        rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
        assert {each for row in rows for each in row["datasets"]} == set(datasets)
        assert "model.audio_qformer.query_tokens" in moved_by(runs[0], base)


def test_noise_is_not_added_to_sound(write_yaml: Write, losses: Losses, own: Callable[..., dict[str, Any]]) -> None:
    runs = [
        train_from_config(
            write_yaml("audio", name=f"noise{noise}", datasets={"own": own("audio")}, model={"clip_noise": noise}),
            max_steps=3,
        )
        for noise in (0.0, 0.5)
    ]
    assert losses(runs[0]) == losses(runs[1])


def test_a_video_with_its_sound_trains_the_vision_branch(
    write_yaml: Write, own: Callable[..., dict[str, Any]], base: Path
) -> None:
    own_rows = {"own": own("video", "audio")}
    run = train_from_config(write_yaml("vision", datasets=own_rows, run={"weight_decay": 0}), max_steps=2)
    assert "model.video_qformer.query_tokens" in moved_by(run, base)


def test_sound_and_frames_for_the_audio_branch_need_two_data_sets(
    write_yaml: Write, own: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=r"own has both sound and video for the audio branch. Split it into two"):
        train_from_config(write_yaml("audio", datasets={"own": own("video", "audio")}))


def test_cached_features_give_the_same_losses(write_yaml: Write, losses: Losses) -> None:
    for branch in ("vision", "audio"):
        model = {"clip_noise": 0.3}
        runs = [
            train_from_config(write_yaml(branch, name=f"{branch}{cached}", model=model, run={"cache_features": cached}))
            for cached in (True, False)
        ]
        assert losses(runs[0]) == losses(runs[1])


def test_worker_processes_give_the_same_losses(write_yaml: Write, losses: Losses) -> None:
    runs = [
        train_from_config(
            write_yaml(
                "vision",
                1,
                name=f"workers{count}",
                frames="alpro_video_train",
                run={"cache_features": False, "num_workers": count, "iters_per_epoch": 3},
            )
        )
        for count in (0, 2)
    ]
    assert losses(runs[0]) == losses(runs[1])
