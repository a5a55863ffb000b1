"""The largest batch of a data set: its length, its media and its tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from video_llama.config import load_config
from video_llama.training.config import TrainConfig
from video_llama.training.data import training_sets
from video_llama.training.distributed import World
from video_llama.training.planned_batches import IMAGE_DATASETS, Media, PlannedBatch, planned_batches
from video_llama.training.stages import stage_of
from video_llama.training.starting_model import model_without_weights

Write = Callable[..., Path]
OwnRows = Callable[..., dict[str, Any]]
UNCACHED = {"cache_features": False}


def planned(path: Path, num_tokens: int | None = None, *, has_tokenizer: bool = True) -> list[PlannedBatch]:
    config = load_config(TrainConfig, path)
    folder = model_without_weights(config, str(path))
    stage = stage_of(config.model)
    return planned_batches(config, folder if has_tokenizer else None, folder.model.config, stage, num_tokens)


def test_the_longest_row_is_at_least_as_long_as_every_batch(write_yaml: Write) -> None:
    path = write_yaml(run=UNCACHED)
    [batch] = planned(path)
    config = load_config(TrainConfig, path)
    folder = model_without_weights(config, str(path))
    [rows] = training_sets("datasets", config, folder, stage_of(config.model), World(0, 1, torch.device("cpu")))
    longest = max(len(rows.row(index, 0).input_ids) for index in range(len(rows.samples)))
    assert longest <= batch.num_tokens < longest + 2 * config.run.pad_to_multiple
    assert batch.is_measured


@pytest.mark.parametrize("stage", [1, 2])
def test_without_annotations_the_settings_give_the_limit(write_yaml: Write, stage: int) -> None:
    name = "webvid" if stage == 1 else "webvid_instruct"
    path = write_yaml(stage=stage, datasets={name: {"vis_processor": {"train": {"n_frms": 3}}}}, run=UNCACHED)
    [batch] = planned(path)
    assert (batch.num_rows, batch.is_measured) == (None, False)
    # Captions: start, 5 media tokens, 32 words; padded to 16. Conversations: the default limit.
    assert batch.num_tokens == (48 if stage == 1 else 512)
    assert batch.media == (Media("pixel_values_videos", 1, 3),)


@pytest.mark.parametrize("name", IMAGE_DATASETS)
def test_images_have_one_frame(write_yaml: Write, name: str) -> None:
    [batch] = planned(write_yaml(datasets={name: {}}, run=UNCACHED))
    assert batch.media == (Media("pixel_values_videos", 1, 1),)


def test_videos_with_their_sound(write_yaml: Write, own: OwnRows) -> None:
    data = {"own": own("video", "audio")}
    path = write_yaml(datasets=data, run=UNCACHED)
    assert planned(path)[0].media == (Media("pixel_values_videos", 1, 4), Media("input_features", 1, 8))
    cached = planned(write_yaml(name="cached", datasets=data))[0].media
    assert cached == (Media("frame_tokens", 1, 4), Media("sound_embeddings", 1, 8))


def test_tensors(write_yaml: Write) -> None:
    path = write_yaml("audio", run=UNCACHED)
    [planned_batch] = planned(path, num_tokens=40)
    config = model_without_weights(load_config(TrainConfig, path), str(path)).model.config
    batch = planned_batch.tensors(config)
    assert (planned_batch.num_tokens, planned_batch.is_measured) == (48, True)
    assert batch.input_ids.shape == batch.labels.shape == (4, 48)
    assert (batch.input_ids == config.audio_token_id).sum() == 4 * config.num_audio_query_tokens
    assert batch.num_tokens == 4 * (47 - config.num_audio_query_tokens)
    assert {form: tuple(media.shape) for form, media in batch.media.items()} == {
        "audio_pixel_values": (4, 4, 3, 28, 28)
    }


def test_too_short_for_the_media(write_yaml: Write) -> None:
    path = write_yaml(model={"lora": {"r": 2}}, run={**UNCACHED, "pad_to_multiple": 1})
    [batch] = planned(path, num_tokens=6)
    config = model_without_weights(load_config(TrainConfig, path), str(path)).model.config
    with pytest.raises(ValueError, match=r"rows of 6 tokens have no place for the media\. Give at least 7"):
        batch.tensors(config)
