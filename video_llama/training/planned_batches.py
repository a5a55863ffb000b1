"""The largest batch of each data set of a training YAML, by its shapes, and the number of rows of each.

Media are never opened. Annotations are read if they exist. Without them, or without a tokenizer, the length of a row
is the limit that the settings give.
"""

# B batch, L tokens, N media, T frames or clips, K queries per frame, H Q-Former width, E ImageBind embedding width

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from torch import Tensor

from video_llama.checkpoints.folder import ModelFolder
from video_llama.conversation import IGNORE_INDEX
from video_llama.datasets.annotations import excluded_ids, format_of, read_samples
from video_llama.datasets.config import DatasetConfig
from video_llama.datasets.loading import Batch
from video_llama.datasets.media import MediaForm
from video_llama.datasets.rows import RowBuilder
from video_llama.datasets.sample import Sample, SampleKind
from video_llama.errors import DataError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.processors.video_processor import frames_sentence
from video_llama.training.config import TrainConfig
from video_llama.training.data import text_rules
from video_llama.training.stages import Stage

VIDEO_FORMS = ("pixel_values_videos", "frame_tokens")
IMAGE_DATASETS = ("cc_sbu_align", "llava_pretrain", "llava_instruct")
REFERENCE_LENGTH = 512
"""Limit of instruction rows in tokens with ``labels: reference``, and the assumption where nothing limits them."""
PROMPT_TOKENS = 64
"""Assumed length of the instruction of a caption without a tokenizer."""
LONG_ROWS = 16
"""Number of rows, those with the longest text, that are tokenized to find the longest row."""
CAPTION_FORMATS = ("webvid", "cc_sbu_align", "llava_pretrain")
LATE_SECONDS = 100.0
"""Times of frames in the assumed sentence about them."""


@dataclass(frozen=True)
class Media:
    """The media of a row in one form: how many, and the number of frames or clips of each."""

    form: MediaForm
    count: int
    steps: int


@dataclass(frozen=True)
class PlannedBatch:
    """The largest batch of a data set for one process."""

    dataset: str
    num_rows: int | None
    """Rows of the data set; None if its annotations do not exist."""
    batch_size: int
    num_tokens: int
    """Length of a row."""
    is_measured: bool
    """Whether ``num_tokens`` is that of the longest rows; if not, it is the limit of the settings."""
    media: tuple[Media, ...]

    def tensors(self, config: VideoLlamaConfig) -> Batch:
        """Return the batch: ids and labels with values, and empty media. Call it in ``simulation.fake_tensors``."""
        needed = 2 + sum(each.count * _tokens_per_medium(each.form, config) for each in self.media)
        if self.num_tokens < needed:
            raise ValueError(
                f"datasets.{self.dataset}: rows of {self.num_tokens} tokens have no place for the media. Give at least "
                f"{needed}."
            )
        ids = torch.ones(self.batch_size, self.num_tokens, dtype=torch.long)
        labels = torch.ones_like(ids)
        media: dict[MediaForm, Tensor | list[Tensor]] = {}
        first = 1
        for each in self.media:
            width = each.count * _tokens_per_medium(each.form, config)
            places = (slice(None), slice(first, first + width))
            ids[places] = config.video_token_id if each.form in VIDEO_FORMS else config.audio_token_id
            labels[places] = IGNORE_INDEX
            first += width
            media[each.form] = torch.zeros(self.batch_size * each.count, each.steps, *_shape(each.form, config))
        return Batch(self.dataset, ("planned",) * self.batch_size, ids, labels, media)


def _tokens_per_medium(form: MediaForm, config: VideoLlamaConfig) -> int:
    return config.num_video_query_tokens if form in VIDEO_FORMS else config.num_audio_query_tokens


def _shape(form: MediaForm, config: VideoLlamaConfig) -> tuple[int, ...]:
    """Return the shape of a frame or clip in a form."""
    size: int = config.vision_config.image_size  # type: ignore[assignment]  # a single number in this model
    embedding = (config.imagebind_audio_config.embedding_size,)
    shapes: dict[MediaForm, tuple[int, ...]] = {
        "pixel_values_videos": (3, size, size),
        "audio_pixel_values": (3, *config.imagebind_vision_config.input_size),
        "input_features": (1, *config.imagebind_audio_config.input_size),
        "frame_tokens": (config.num_query_tokens, config.qformer_config.hidden_size),
        "clip_embeddings": embedding,
        "sound_embeddings": embedding,
    }
    return shapes[form]


def planned_batches(
    config: TrainConfig, folder: ModelFolder | None, model: VideoLlamaConfig, stage: Stage, num_tokens: int | None
) -> list[PlannedBatch]:
    """Return the largest batch of each data set.

    ``folder`` provides the tokenizer; None: rows have the length that the settings allow. ``num_tokens`` replaces the
    length of all rows. Raises DataError for annotations that exist and are invalid, ConfigError for a data set that
    contradicts the stage.
    """
    return [
        _planned(name, dataset, config, folder, model, stage, num_tokens) for name, dataset in config.datasets.items()
    ]


def _planned(
    name: str,
    dataset: DatasetConfig,
    config: TrainConfig,
    folder: ModelFolder | None,
    model: VideoLlamaConfig,
    stage: Stage,
    num_tokens: int | None,
) -> PlannedBatch:
    where = f"datasets.{name}"
    branch = stage.branch_of(dataset, where)
    format_name = dataset.format or name
    format_of(format_name, where)
    samples = _samples(format_name, dataset, where)
    kinds = _kinds(samples, format_name)
    is_vision = branch == "vision"
    is_cached = config.run.cache_features
    vision: tuple[MediaForm, MediaForm] = ("frame_tokens", "pixel_values_videos")
    audio: tuple[MediaForm, MediaForm] = ("clip_embeddings", "audio_pixel_values")
    sound: tuple[MediaForm, MediaForm] = ("sound_embeddings", "input_features")
    frames = dataset.vis_processor.train.n_frms if kinds["video"] else 1
    media: list[Media] = []
    if num_visual := kinds["video"] + kinds["image"]:
        media.append(Media((vision if is_vision else audio)[not is_cached], num_visual, frames))
    if kinds["audio"]:
        media.append(Media(sound[not is_cached], kinds["audio"], model.max_audio_pos))
    length, is_measured = num_tokens, num_tokens is not None
    if length is None and folder is not None and samples:
        builder = RowBuilder(text_rules(config.model, folder), dataset, branch)
        length, is_measured = _longest(builder, samples, dataset.vis_processor.train.n_frms), True
    if length is None:
        num_media_tokens = sum(each.count * _tokens_per_medium(each.form, model) for each in media)
        length = _limit(format_name, dataset, config, num_media_tokens)
    multiple = config.run.pad_to_multiple
    return PlannedBatch(
        name,
        None if samples is None else len(samples),
        config.run.batch_size_train,
        math.ceil(length / multiple) * multiple,
        is_measured,
        tuple(media),
    )


def _samples(format_name: str, dataset: DatasetConfig, where: str) -> list[Sample] | None:
    info = dataset.build_info
    paths = [path for path in (info.anno_dir, info.storage) if path is not None]
    if not info.shards and not any(path.exists() for path in paths):
        return None
    return read_samples(format_name, info, where=where, excluded=excluded_ids(dataset.exclude))


def _kinds(samples: Sequence[Sample] | None, format_name: str) -> Counter[SampleKind]:
    """Return the media of the row with the most media of each kind; without annotations, one of the format's kind."""
    if not samples:
        return Counter(["image" if format_name in IMAGE_DATASETS else "video"])
    largest: Counter[SampleKind] = Counter()
    for sample in samples:
        largest |= Counter(medium.kind for medium in sample.media)
    if largest["video"] and largest["image"]:  # in different rows: the batch has the longer medium
        largest["video"], largest["image"] = max(largest["video"], largest["image"]), 0
    return largest


def _longest(builder: RowBuilder, samples: Sequence[Sample], num_frames: int) -> int:
    """Return the number of tokens of the longest row among those with the longest text."""
    message = frames_sentence([LATE_SECONDS + index for index in range(num_frames)])
    longest = 0
    for sample in nlargest(LONG_ROWS, samples, key=lambda sample: sample.text_length):
        messages = [message if medium.kind == "video" else "" for medium in sample.media]
        for choice in range(builder.num_choices):
            try:
                longest = max(longest, len(builder.build(sample, messages, choice).input_ids))
            except DataError:  # validate-data reports such rows
                continue
    if not longest:
        raise DataError(f"None of the longest rows, such as {samples[0].id}, can be used. Run validate-data.")
    return longest


def _limit(format_name: str, dataset: DatasetConfig, config: TrainConfig, num_media_tokens: int) -> int:
    """Return the largest length of a row that the settings allow."""
    if format_name in CAPTION_FORMATS:
        prompt = PROMPT_TOKENS if config.model.prompt_path else 0
        return 1 + num_media_tokens + prompt + config.model.max_txt_len
    return dataset.max_length or REFERENCE_LENGTH
