"""The ``datasets`` section of a training YAML, with the reference's keys and defaults (reference: configs/datasets)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from video_llama.config import Config

Branch = Literal["vision", "audio"]


class BuildInfo(Config):
    """Where a data set lies. Caption sets of pictures use ``storage``, the others ``anno_dir`` and ``videos_dir``."""

    anno_dir: Path | None = None
    """WebVid: the folder of .csv or .tsv files, or one such file. Instructions: the JSON file."""
    videos_dir: Path | None = None
    """The folder that the paths in the annotations start from."""
    storage: Path | None = None
    """The folder with ``filter_cap.json`` and ``image/``."""
    shards: tuple[str, ...] = ()
    """Tar shards: paths or fsspec addresses; "part-{0000..0099}.tar" stands for a hundred. One may stand alone."""
    index_dir: Path | None = None
    """Keeps what the shards' headers say, so that each shard is gone through only once."""
    how_to_get: str = ""
    """How to obtain the data, as a sentence: shown in the error if one of the paths above does not exist."""

    @field_validator("shards", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class FrameSettings(Config):
    """How frames become pixels."""

    name: Literal["alpro_video_train", "alpro_video_eval", "blip2_image_train", "blip2_image_eval"] = "alpro_video_eval"
    """``..._train`` crops at random, and draws WebVid's frames at random from each half; ``..._eval`` does neither."""
    n_frms: int = Field(default=8, ge=1)
    """Frames per video; a picture is one."""
    image_size: int | None = None
    """Height and width in pixels. None takes the model folder's, and any other value than that is refused."""

    @property
    def is_augmented(self) -> bool:
        return self.name.endswith("_train")


class FrameSection(Config):
    """``vis_processor``."""

    train: FrameSettings = FrameSettings()
    """Used in training."""


class TextSettings(Config):
    """How a caption's text is prepared."""

    name: Literal["blip_caption"] = "blip_caption"
    """The reference's caption rules; the only ones."""


class TextSection(Config):
    """``text_processor``."""

    train: TextSettings = TextSettings()
    """Used in training; instruction sets and cc_sbu_align leave it unused, as in the reference."""


class DatasetConfig(Config):
    """One data set of the mixture. Its key in the YAML names its format unless ``format`` does."""

    format: str | None = None
    """A name of ``annotations.READERS``: for a key of your own choice."""
    data_type: Literal["video", "images"] = "video"
    """The reference's key: every format says itself what its files are."""
    build_info: BuildInfo = BuildInfo()
    """Where it lies."""
    vis_processor: FrameSection = FrameSection()
    """Frames to pixels."""
    text_processor: TextSection = TextSection()
    """Captions."""
    sample_ratio: float = Field(default=1.0, gt=0)
    """How often a batch comes from this set, relative to the others."""
    num_video_query_token: int | None = None
    """Tokens of a video; None takes the model's, and any other value than that is refused."""
    num_audio_query_token: int | None = None
    """Tokens of a sound; likewise."""
    tokenizer_name: str | None = None
    """The reference's key. The model folder's tokenizer is used: the ids must be the decoder's."""
    model_type: Literal["vicuna", "llama_v2"] | None = None
    """The prompt style; None takes the model folder's, and a style other than that is refused."""
    labels: Literal["serving", "reference"] = "serving"
    """``serving``: trains on exactly what is served. ``reference``: the published checkpoints' own training texts."""
    branch: Branch | None = None
    """Which branch reads the frames; None takes the one that trains. Needed where both train. Sound always goes
    through ImageBind's audio trunk into the audio branch."""
    max_length: int | None = Field(default=None, ge=1)
    """Instruction sets: longest row in tokens. None: uncut under ``serving``, 512 under ``reference``."""
    on_bad_media: Literal["error", "skip"] = "error"
    """A medium that cannot be read stops the run, or its sample is left out and counted; nothing takes its place."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """With ``skip``: the largest share of unreadable samples (of those drawn so far, or of 100 if these are fewer)."""
    exclude: Path | None = None
    """A report of ``validate-data``: the samples that it calls unusable are left out of the order."""
