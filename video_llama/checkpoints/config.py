"""The ``model`` section shared by evaluation and training YAMLs, and the evaluation YAML.

Source of the keys: the reference's eval_configs/*.yaml and ``from_config`` in its models/video_llama.py.
Keys marked "New" are not in the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from video_llama.config import Config
from video_llama.datasets.config import DatasetConfig

PathText = str
"""A path; an empty string means that it is not set, as in the reference."""

ModelType = Literal["vicuna", "llama_v2", "chat_template"]


class ModelSection(Config):
    """The ``model`` keys that evaluation and training YAMLs have in common.

    If a path is empty, the published file is searched in the folders of the other paths.
    """

    arch: Literal["video_llama"] = "video_llama"
    """Architecture, the only one."""
    pretrained: Path | None = None
    """New: a model folder, which replaces all the files below."""
    llama_model: PathText = ""
    """Folder of the decoder in Hugging Face format: LLaMA-2-Chat, Vicuna v0, or any LLaMA with a tokenizer.json and a
    chat template."""
    ckpt: PathText = ""
    """Weights of the vision branch, such as VL_LLaMA_2_7B_Finetuned.pth. In training also trained parts to start from:
    a .safetensors file, a checkpoint folder, or a run folder (its newest checkpoint)."""
    ckpt_2: PathText = ""
    """Weights of the audio branch, loaded after ``ckpt``."""
    imagebind_ckpt_path: PathText = ""
    """Path of imagebind_huge.pth, or its folder."""
    llama_proj_model: PathText = ""
    """Checkpoint of MiniGPT-4, from which only ``llama_proj`` is loaded."""
    q_former_model: PathText = ""
    """Path of blip2_pretrained_flant5xxl.pth. If it is the URL used by the reference, the file is searched in the
    folders of the other paths."""
    vit_ckpt_path: PathText = ""
    """New: path of eva_vit_g.pth."""
    config: dict[str, Any] = {}
    """New: arguments of VideoLlamaConfig that cannot be inferred from the files, such as
    ``vision_config: {num_attention_heads: 4}`` for a custom ViT."""
    equip_audio_branch: bool = True
    """Whether the model has an audio branch. Ignored with ``pretrained``."""
    num_query_token: int | None = None
    """Number of queries per frame. For this and the next four keys: None is the value of the weights, and any other
    value is an error."""
    num_video_query_token: int | None = None
    """Number of tokens per video."""
    num_audio_query_token: int | None = None
    """Number of tokens per sound."""
    fusion_head_layers: int | None = None
    """Number of layers of the video Q-Former."""
    max_frame_pos: int | None = None
    """Number of frame positions."""
    freeze_vit: bool = True
    """Freeze the ViT and its final norm. This and all following keys except ``low_resource`` and ``model_type`` are
    used in training only."""
    freeze_qformer: bool = True
    """Freeze the frame Q-Former."""
    frozen_llama_proj: bool = True
    """Freeze the projection of the vision branch."""
    frozen_video_Qformer: bool = True
    """Freeze the video Q-Former, its queries and the frame positions."""
    frozen_audio_Qformer: bool = True
    """Freeze the audio Q-Former, its queries, positions and projection."""
    max_txt_len: int = Field(default=32, ge=1)
    """Maximum length of a caption in tokens, including its end symbol."""
    end_sym: str = "\n"
    """End symbol of a caption without a conversation."""
    prompt_path: PathText = ""
    """File of instructions for captions, one per line, each with ``<ImageHere>``."""
    low_resource: bool = False
    """The reference's 8-bit decoder. Must be false in training (see ``quantization`` there)."""
    use_grad_checkpoint: bool = False
    """The reference's activation checkpointing of the ViT. Must be false in training (see
    run.activation_checkpointing)."""
    model_type: Literal["pretrain_vicuna", "pretrain_llama_v2", "vicuna", "llama_v2", "chat_template"] | None = None
    """Prompt style of the decoder; ``chat_template`` (new) is its own. None: the style of the decoder's folder. Any
    other style is an error."""


class EvalModelSection(ModelSection):
    """The ``model`` section of an evaluation YAML. Keys for training only are accepted as in the reference."""

    fusion_header_type: Literal["seqTransf"] = "seqTransf"
    """How frames are merged, the only option."""
    image_size: int | None = Field(default=None, ge=1)
    """Height and width of a frame in pixels. None: the size of the processor, else that of the ViT. The position
    embeddings of the ViT are resized to it."""
    vit_model: Literal["eva_clip_g"] = "eva_clip_g"
    """Name of the ViT, the only one."""
    prompt_template: str = ""
    """Used in training only."""
    drop_path_rate: float = Field(default=0.0, ge=0)
    """Used in training only."""


class RunSection(Config):
    """The reference's ``run`` section, which does not affect evaluation."""

    task: Literal["video_text_pretrain"] = "video_text_pretrain"
    """The reference's only task."""


class ModelYaml(Config):
    """The sections of evaluation and training YAMLs that determine the model."""

    model: ModelSection
    """Files and settings of the model."""
    datasets: dict[str, DatasetConfig] = {}
    """The ``vis_processor`` of the first data set contains the number and size of the frames."""

    @property
    def num_frames(self) -> int:
        """Default number of frames per video; 8 without data sets, as in the reference."""
        first = next(iter(self.datasets.values()), None)
        return 8 if first is None else first.vis_processor.train.n_frms

    @property
    def image_size(self) -> int | None:
        """Requested frame size in pixels, or None for the size of the ViT."""
        first = next(iter(self.datasets.values()), None)
        return None if first is None else first.vis_processor.train.image_size

    @property
    def model_type(self) -> ModelType | None:
        """``model.model_type`` without its prefix, as on the command line."""
        named = (self.model.model_type or "").removeprefix("pretrain_")
        return next((kind for kind in get_args(ModelType) if kind == named), None)


class EvalConfig(ModelYaml):
    """An evaluation YAML."""

    model: EvalModelSection
    """Files and settings of the model."""
    run: RunSection = RunSection()
    """The reference's ``run`` section."""

    @property
    def image_size(self) -> int | None:
        """Requested frame size in pixels, or None for the size of the ViT."""
        return self.model.image_size or super().image_size
