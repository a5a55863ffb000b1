"""An evaluation YAML: which files a model is put together from, with the reference's keys and a few of ours.

Source of the keys: the reference's eval_configs/*.yaml and ``from_config`` in its models/video_llama.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from video_llama.config import Config
from video_llama.datasets.config import DatasetConfig

PathText = str
"""A path that may be empty, as the reference writes "none"."""

ModelType = Literal["vicuna", "llama_v2"]


class ModelKeys(Config):
    """What the ``model`` section of an evaluation YAML and that of a training YAML have in common.

    A path that is empty is looked for beside the others by the published file's name.
    """

    arch: Literal["video_llama"] = "video_llama"
    """The only architecture."""
    pretrained: Path | None = None
    """Ours: an assembled model folder, in the place of the pieces that the paths below name."""
    llama_model: PathText = ""
    """The decoder's folder: LLaMA-2-Chat or Vicuna v0 in Hugging Face's layout."""
    ckpt: PathText = ""
    """The video branch's file, such as VL_LLaMA_2_7B_Finetuned.pth. In training, trained parts to start from: also a
    .safetensors file, a checkpoint folder, or a run folder (its newest)."""
    ckpt_2: PathText = ""
    """The audio branch's, loaded after ``ckpt``."""
    imagebind_ckpt_path: PathText = ""
    """imagebind_huge.pth, or the folder that it lies in."""
    llama_proj_model: PathText = ""
    """MiniGPT-4's file, of which ``llama_proj`` alone is taken."""
    q_former_model: PathText = ""
    """blip2_pretrained_flant5xxl.pth, or the reference's address of it: then it is looked for beside the others."""
    vit_ckpt_path: PathText = ""
    """Ours: eva_vit_g.pth."""
    config: dict[str, Any] = {}
    """Ours: arguments of VideoLlamaConfig that the files do not tell, such as
    ``vision_config: {num_attention_heads: 4}`` of a ViT that is no published one."""
    equip_audio_branch: bool = True
    """Whether the model hears; false leaves out the audio branch's pieces. A model folder decides by itself."""
    num_query_token: int | None = None
    """Queries per frame. This and the next four describe the model: None takes the files', others are refused."""
    num_video_query_token: int | None = None
    """Tokens of a video."""
    num_audio_query_token: int | None = None
    """Tokens of a sound."""
    fusion_head_layers: int | None = None
    """Layers of the video Q-Former."""
    max_frame_pos: int | None = None
    """Frames that have a position."""
    freeze_vit: bool = True
    """The ViT and its final norm keep their weights. This and what follows matter in training alone, save
    ``low_resource``."""
    freeze_qformer: bool = True
    """The frame Q-Former keeps its weights."""
    frozen_llama_proj: bool = True
    """The vision branch's projection keeps its weights."""
    frozen_video_Qformer: bool = True
    """The video Q-Former, its queries and the frame positions keep their weights."""
    frozen_audio_Qformer: bool = True
    """The audio Q-Former, its queries, positions and projection keep their weights."""
    max_txt_len: int = Field(default=32, ge=1)
    """Longest caption with its end symbol, in tokens."""
    end_sym: str = "\n"
    """Ends a caption that is not asked for in a conversation."""
    prompt_path: PathText = ""
    """A file of instructions for captions, one a line, each with ``<ImageHere>``."""
    low_resource: bool = False
    """The reference's 8-bit decoder; in training it must be false: see ``quantization`` there."""
    use_grad_checkpoint: bool = False
    """The reference's switch for the ViT; in training it must be false: see run.activation_checkpointing."""


class ModelSection(ModelKeys):
    """The model's files. What matters in training alone is accepted as the reference writes it."""

    model_type: Literal["pretrain_vicuna", "pretrain_llama_v2", "vicuna", "llama_v2"] | None = None
    """The decoder's prompt style; None takes what the decoder's folder says, and a style other than that is refused."""
    fusion_header_type: Literal["seqTransf"] = "seqTransf"
    """How frames are merged; the only way."""
    image_size: int | None = Field(default=None, ge=1)
    """Height and width of a frame in pixels. None takes the processor's, else the ViT's own; the ViT's position table
    is resized to it."""
    vit_model: Literal["eva_clip_g"] = "eva_clip_g"
    """The ViT; the only one."""
    prompt_template: str = ""
    """Of training alone."""
    drop_path_rate: float = Field(default=0.0, ge=0)
    """Likewise."""


class RunSection(Config):
    """The reference's ``run``; nothing in it changes an answer."""

    task: Literal["video_text_pretrain"] = "video_text_pretrain"
    """The reference's only task."""


class EvalConfig(Config):
    """A whole evaluation YAML."""

    model: ModelSection
    """The model's files."""
    datasets: dict[str, DatasetConfig] = {}
    """The first one's ``vis_processor`` says how many frames are looked at, and how large."""
    run: RunSection = RunSection()
    """The reference's section."""

    @property
    def num_frames(self) -> int:
        """Frames of a video, unless the caller asks for others; the reference's default is 8."""
        first = next(iter(self.datasets.values()), None)
        return 8 if first is None else first.vis_processor.train.n_frms

    @property
    def image_size(self) -> int | None:
        """Pixels that are asked for, or None for the ViT's own."""
        first = next(iter(self.datasets.values()), None)
        of_processor = None if first is None else first.vis_processor.train.image_size
        return self.model.image_size or of_processor

    @property
    def model_type(self) -> ModelType | None:
        """``model.model_type`` as the command line writes it."""
        named = (self.model.model_type or "").removeprefix("pretrain_")
        return next((kind for kind in ("vicuna", "llama_v2") if kind == named), None)
