"""Settings of one data set in a training YAML, with the reference's keys and defaults (reference: configs/datasets)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from video_llama.config import Config

Branch = Literal["vision", "audio"]


class BuildInfo(Config):
    """Paths of a data set. Image caption sets use ``storage``, the others ``anno_dir`` and ``videos_dir``."""

    anno_dir: Path | None = None
    """Annotations. WebVid: a folder of .csv or .tsv files, or one such file. Instruction data: the JSON file."""
    videos_dir: Path | None = None
    """Folder that the media paths in the annotations are relative to."""
    storage: Path | None = None
    """Folder that contains ``filter_cap.json`` and ``image/``."""
    shards: tuple[str, ...] = ()
    """Tar shards: a path or fsspec address, or a list of them. "part-{0000..0099}.tar" expands to 100 shards."""
    index_dir: Path | None = None
    """Folder that stores the index of each shard, so that its headers are read only once."""
    how_to_get: str = ""
    """How to obtain the data, as a sentence: shown in the error if one of the paths above does not exist."""

    @field_validator("shards", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class FrameSettings(Config):
    """Frame sampling and preprocessing."""

    name: Literal["alpro_video_train", "alpro_video_eval", "blip2_image_train", "blip2_image_eval"] = "alpro_video_eval"
    """Processor. ``..._train`` applies a random crop and, for WebVid, samples frames at random from each half of the
    video. ``..._eval`` is deterministic."""
    n_frms: int = Field(default=8, ge=1)
    """Number of frames per video; an image has one."""
    image_size: int | None = None
    """Height and width in pixels. None: the size in the model folder. Any other value is an error."""

    @property
    def is_augmented(self) -> bool:
        return self.name.endswith("_train")


class FrameSection(Config):
    """The ``vis_processor`` section."""

    train: FrameSettings = FrameSettings()
    """Settings for training."""


class TextSettings(Config):
    """Caption preprocessing."""

    name: Literal["blip_caption"] = "blip_caption"
    """The reference's caption processor, the only one."""


class TextSection(Config):
    """The ``text_processor`` section."""

    train: TextSettings = TextSettings()
    """Settings for training. Instruction sets and cc_sbu_align ignore them, as in the reference."""


class DatasetConfig(Config):
    """One data set. Its key in the YAML is its format, unless ``format`` is set."""

    format: str | None = None
    """Name of the annotation format (see ``annotations.READERS``), for data sets with a key of your choice."""
    data_type: Literal["video", "images"] = "video"
    """Accepted for compatibility with the reference and ignored: the format determines the kind of media."""
    build_info: BuildInfo = BuildInfo()
    """Paths of annotations and media."""
    vis_processor: FrameSection = FrameSection()
    """Frame sampling and preprocessing."""
    text_processor: TextSection = TextSection()
    """Caption preprocessing."""
    sample_ratio: float = Field(default=1.0, gt=0)
    """Sampling weight: how often a batch comes from this data set, relative to the others."""
    num_video_query_token: int | None = None
    """Number of tokens per video. None: the model's value. Any other value is an error."""
    num_audio_query_token: int | None = None
    """Number of tokens per sound. None: the model's value. Any other value is an error."""
    tokenizer_name: str | None = None
    """Accepted for compatibility with the reference and ignored: the model folder's tokenizer is used."""
    model_type: Literal["vicuna", "llama_v2", "chat_template"] | None = None
    """Prompt style. None: the style of the model folder. Any other style is an error."""
    labels: Literal["serving", "reference"] = "serving"
    """Prompt text: ``serving`` trains on exactly the text that is used for inference, ``reference`` on the text that
    the published checkpoints were trained on."""
    branch: Branch | None = None
    """Branch that encodes the frames. None: the branch that is trained. Required if both are trained. Sound always
    goes through ImageBind's audio encoder into the audio branch."""
    max_length: int | None = Field(default=None, ge=1)
    """Instruction sets: maximum length of a row in tokens. None: no limit with ``labels: serving``, 512 with
    ``labels: reference``."""
    on_bad_media: Literal["error", "skip"] = "error"
    """``error`` stops the run at an unreadable media file. ``skip`` omits the sample from its batch, without a
    replacement, and counts it."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """With ``on_bad_media: skip``: maximum share of unreadable samples among those read so far (or among 100, if
    fewer were read). The run stops above it."""
    exclude: Path | None = None
    """A ``validate-data`` report. Samples with errors in it are excluded from training."""
