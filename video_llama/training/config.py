"""A training YAML: ``model``, ``datasets`` and ``run``, with the reference's keys and defaults and a few of ours.

Source of the keys: the reference's train_configs/*.yaml and models/video_llama.py (``from_config``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from video_llama.checkpoints.config import ModelKeys, PathText
from video_llama.config import Config
from video_llama.datasets.config import DatasetConfig

NAMED_OTHERWISE = {
    "low_resource": "in training an 8-bit decoder is model.quantization: int8",
    "use_grad_checkpoint": "here it is run.activation_checkpointing",
}
"""Keys of the reference's that training has under another name."""


class LoraConfig(Config):
    """Adapters on the decoder (PEFT's LoRA): low-rank matrices that train beside frozen weights."""

    r: int = Field(default=8, ge=1)
    """Their rank."""
    alpha: float = Field(default=16.0, gt=0)
    """What they add is scaled by ``alpha / r``."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what goes into them, in training."""
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    """The last parts of the names of the decoder's linear layers that get one."""


class ModelConfig(ModelKeys):
    """What is trained, and from which weights."""

    model_type: Literal["pretrain_vicuna", "pretrain_llama_v2"] | None = None
    """The decoder's prompt style; None takes the model folder's, and a style other than that is refused."""
    how_to_get: str = ""
    """Ours: how to obtain ``pretrained``, as a sentence: shown in the error if the folder does not exist."""
    freeze_llama: bool = True
    """Ours: the decoder keeps its weights; false trains all of it."""
    lora: LoraConfig | None = None
    """Ours: adapters on the decoder, whose own weights stay frozen."""
    quantization: Literal["int8", "int4"] | None = None
    """Ours: the frozen decoder's matrices in 8 or 4 bits, for less memory; with ``lora`` this is QLoRA."""
    fusion_header_type: Literal["seqTransf"] | None = None
    """How frames are merged; the only way. None takes the model's."""
    vit_model: str = "eva_clip_g"
    """The ViT's name; there is one."""
    prompt_template: str = "{}"
    """The format around the instructions of ``prompt_path``."""
    clip_noise: float = Field(default=0.0, ge=0)
    """Ours: expected norm of the Gaussian noise added to each ImageBind embedding (norm 1) in training. It bridges the
    gap between the pictures that the audio branch is trained on and the sounds that it hears."""

    @model_validator(mode="after")
    def _one_way_into_the_decoder(self) -> ModelConfig:
        if self.lora is not None and not self.freeze_llama:
            raise ValueError("lora and freeze_llama: false are two ways to train the decoder; choose one")
        if self.quantization is not None and not self.freeze_llama:
            raise ValueError("a quantised decoder has no weights to train; set freeze_llama to true, and give lora")
        return self

    @field_validator(*NAMED_OTHERWISE)
    @classmethod
    def _has_another_name(cls, value: bool, info: ValidationInfo) -> bool:
        if value:
            raise ValueError(f"{NAMED_OTHERWISE[str(info.field_name)]}; set this to false")
        return value


class RunConfig(Config):
    """How it is trained. A step is one change of the weights; it reads ``accum_grad_iters`` batches."""

    output_dir: Path
    """The run folder: metrics.jsonl, config.yaml, trained_parts.json, checkpoints/."""
    task: Literal["video_text_pretrain"] = "video_text_pretrain"
    """The reference's only task."""
    lr_sched: Literal["linear_warmup_cosine_lr", "reference_warmup_cosine"] = "linear_warmup_cosine_lr"
    """``linear_warmup_cosine_lr``: as documented. ``reference_warmup_cosine``: as the reference's code computes it."""
    init_lr: float = Field(default=1e-4, gt=0)
    """The peak learning rate."""
    min_lr: float = Field(default=0.0, ge=0)
    """What the cosine ends in."""
    warmup_lr: float = 0.0
    """What the warm-up starts from; below 0: the peak."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps from ``warmup_lr`` to ``init_lr``."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Of matrices and embeddings; not of biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Ours: AdamW's decay rates."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Ours: largest norm of the gradient; None leaves it, as the reference does."""
    max_epoch: int = Field(default=1, ge=1)
    """How many times ``iters_per_epoch`` steps."""
    iters_per_epoch: int | None = Field(default=None, ge=1)
    """Steps of an epoch; None: as many as it takes to see every row once."""
    batch_size_train: int = Field(default=32, ge=1)
    """Rows per batch and process."""
    batch_size_eval: int = Field(default=32, ge=1)
    """Rows per batch and process in a validation pass."""
    accum_grad_iters: int = Field(default=1, ge=1)
    """Batches per step; their losses are averaged over tokens."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that read data ahead; 0 reads between the steps, which suits cached features."""
    seed: int = Field(default=42, ge=0)
    """Decides the data's order, what is random in it, and dropout."""
    amp: bool = True
    """Whether to use lower precision off the CPU where ``dtype`` is not given."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Ours: precision of the computation (weights stay as they are). None: bf16 on a GPU with ``amp``, else fp32. fp16
    scales the loss, and is for GPUs only."""
    distributed_mode: Literal["ddp", "fsdp2"] = "ddp"
    """Ours: every process holds the whole model, or (FSDP2) its share of every layer."""
    activation_checkpointing: bool = False
    """Ours: less memory, more time: each decoder and sequence Q-Former layer runs again in the backward pass."""
    compile: bool = False
    """Ours: torch.compile for the decoder's layers; its first steps are slow."""
    device: str = "cuda"
    """"cuda" is used where there is one, else the CPU."""
    pad_to_multiple: int = Field(default=16, ge=1)
    """Ours: rows are padded to a multiple of this, so that few shapes occur (CPU kernels are cached per shape)."""
    group_by_length: bool = False
    """Ours: rows of similar length come together, which leaves less padding."""
    cache_features: bool = False
    """Ours: compute what the frozen encoders say of each medium once. Needs ``..._eval`` processors: nothing random."""
    features_dir: Path | None = None
    """Ours: where these features are kept; None: ``output_dir/features``. Stages may share a folder."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Ours: checkpoints between those at the end of each epoch."""
    keep_last: int = Field(default=2, ge=1)
    """Ours: how many checkpoints are kept."""
    save_reference_pth: bool = False
    """Ours: every checkpoint also holds ``checkpoint_N.pth``, N the epoch from 0, as the reference's trainer writes it.
    Only where the ViT and the decoder are frozen, as they are there."""
    valid_every_steps: int | None = Field(default=None, ge=1)
    """Ours: how often the loss on the ``valid`` data sets is taken; the weights at its lowest are kept in ``best/``."""
    tensorboard: bool = False
    """Ours: write TensorBoard's files into ``output_dir/tensorboard`` too."""
    resume_ckpt_path: PathText | None = None
    """A checkpoint of this run to go on from, or "auto"."""
    evaluate: bool = False
    """Take the loss on the ``valid`` data sets once, and train nothing: of the checkpoint that is resumed from, else of
    the weights in ``model``. (The reference has the key, and no evaluation.)"""
    train_splits: tuple[Literal["train"], ...] = ("train",)
    """The reference's key; the only split."""
    world_size: int = Field(default=1, ge=1)
    """The reference's key; torchrun decides how many processes there are."""
    dist_url: str = "env://"
    """The reference's key; torchrun's environment is used."""
    distributed: bool = True
    """The reference's key; likewise."""


class TrainConfig(Config):
    """A whole training YAML."""

    model: ModelConfig
    """What is trained."""
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    """The mixture; a key is a format's name, or any name where ``format`` is given."""
    valid: dict[str, DatasetConfig] = {}
    """Ours: data sets that are not trained on; see run.valid_every_steps and run.evaluate."""
    run: RunConfig
    """How it is trained."""

    @model_validator(mode="after")
    def _validation_has_data_and_times(self) -> TrainConfig:
        if self.run.evaluate and not self.valid:
            raise ValueError("run.evaluate takes the loss on the data sets of the section valid; give one")
        if bool(self.valid) != (self.run.valid_every_steps is not None or self.run.evaluate):
            raise ValueError(
                "valid data sets and run.valid_every_steps go together; give both or neither, or set run.evaluate"
            )
        return self

    @model_validator(mode="after")
    def _the_reference_trains_it_too(self) -> TrainConfig:
        model = self.model
        if self.run.save_reference_pth and (model.lora is not None or not model.freeze_llama or not model.freeze_vit):
            raise ValueError(
                "run.save_reference_pth: the reference trains neither the decoder, nor adapters, nor the ViT; "
                "set it to false, and use convert --to-reference on the merged folder"
            )
        return self
