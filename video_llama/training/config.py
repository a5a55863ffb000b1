"""The training YAML: ``model``, ``datasets``, ``valid`` and ``run``.

Source of the keys: the reference's train_configs/*.yaml and models/video_llama.py (``from_config``).
Keys marked "New" are not in the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from video_llama.checkpoints.config import ModelSection, ModelYaml, PathText
from video_llama.config import Config
from video_llama.datasets.config import DatasetConfig

RENAMED_KEYS = {
    "low_resource": "use model.quantization: int8 for training with an 8-bit decoder",
    "use_grad_checkpoint": "use run.activation_checkpointing",
}
"""Keys of the reference that have another name in training."""


class LoraConfig(Config):
    """LoRA adapters on the decoder (PEFT): trainable low-rank matrices added to the frozen weights."""

    r: int = Field(default=8, ge=1)
    """Rank of the matrices."""
    alpha: float = Field(default=16.0, gt=0)
    """Scaling: the output of an adapter is multiplied by ``alpha / r``."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability of the inputs of the adapters in training."""
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    """Names of the linear layers of the decoder that get an adapter (the last component of the name)."""


class ModelConfig(ModelSection):
    """The ``model`` section: which weights are loaded and which parts are trained."""

    model_type: Literal["pretrain_vicuna", "pretrain_llama_v2", "chat_template"] | None = None
    """Prompt style of the decoder; ``chat_template`` (new) is its own. None: the style of the model folder or of the
    decoder's folder. Any other style is an error."""
    how_to_get: str = ""
    """New: how to obtain ``pretrained``, as a sentence: shown in the error if the folder does not exist."""
    freeze_llama: bool = True
    """New: freeze the decoder. false trains all its weights."""
    lora: LoraConfig | None = None
    """New: train LoRA adapters on the frozen decoder."""
    quantization: Literal["int8", "int4"] | None = None
    """New: quantize the linear layers of the frozen decoder to 8 or 4 bits. With ``lora`` this is QLoRA."""
    fusion_header_type: Literal["seqTransf"] | None = None
    """How frames are merged, the only option. None: the value of the model."""
    vit_model: str = "eva_clip_g"
    """Name of the ViT; ignored, because there is only one."""
    prompt_template: str = "{}"
    """Format string around the instructions of ``prompt_path``."""
    clip_noise: float = Field(default=0.0, ge=0)
    """New: expected norm of the Gaussian noise added to each ImageBind embedding of a frame (norm 1) in training. It
    reduces the gap between images, on which the audio branch is trained, and sound, its input at inference."""

    @model_validator(mode="after")
    def _train_the_decoder_in_one_way(self) -> ModelConfig:
        if self.lora is not None and not self.freeze_llama:
            raise ValueError("lora and freeze_llama: false are two ways to train the decoder; choose one")
        if self.quantization is not None and not self.freeze_llama:
            raise ValueError("a quantized decoder has no trainable weights; set freeze_llama to true and use lora")
        return self

    @field_validator(*RENAMED_KEYS)
    @classmethod
    def _refuse_renamed_key(cls, value: bool, info: ValidationInfo) -> bool:
        if value:
            raise ValueError(f"{RENAMED_KEYS[str(info.field_name)]}; set this to false")
        return value


class RunConfig(Config):
    """The ``run`` section. A step is one update of the weights and uses ``accum_grad_iters`` batches."""

    output_dir: Path
    """Run folder, for metrics.jsonl, config.yaml, trained_parts.json and checkpoints/."""
    task: Literal["video_text_pretrain"] = "video_text_pretrain"
    """The reference's only task."""
    lr_sched: Literal["linear_warmup_cosine_lr", "reference_warmup_cosine"] = "linear_warmup_cosine_lr"
    """Learning rate schedule. ``linear_warmup_cosine_lr``: as documented by the reference. ``reference_warmup_cosine``:
    as computed by its code."""
    init_lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(default=0.0, ge=0)
    """Final learning rate."""
    warmup_lr: float = 0.0
    """Learning rate at the start of the warm-up. A negative value means ``init_lr``."""
    warmup_steps: int = Field(default=0, ge=0)
    """Number of steps from ``warmup_lr`` to ``init_lr``."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of matrices and embeddings; not applied to biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """New: AdamW's exponential decay rates."""
    grad_clip: float | None = Field(default=None, gt=0)
    """New: maximum norm of the gradient. None: no clipping, as in the reference."""
    max_epoch: int = Field(default=1, ge=1)
    """Number of epochs of ``iters_per_epoch`` steps."""
    iters_per_epoch: int | None = Field(default=None, ge=1)
    """Steps per epoch. None: the number of steps in which every row is used once."""
    batch_size_train: int = Field(default=32, ge=1)
    """Batch size per process."""
    batch_size_eval: int = Field(default=32, ge=1)
    """Batch size per process for validation."""
    accum_grad_iters: int = Field(default=1, ge=1)
    """Batches per step (gradient accumulation); the loss is averaged over their tokens."""
    num_workers: int = Field(default=0, ge=0)
    """Number of data loading processes. 0 loads data between the steps, which is sufficient for cached features."""
    seed: int = Field(default=42, ge=0)
    """Seed for the order of the data, augmentation and dropout."""
    amp: bool = True
    """Use bf16 on a GPU if ``dtype`` is not set."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """New: precision of the computation. None: bf16 on a GPU with ``amp``, else fp32. Frozen weights keep their dtype,
    except with fp32, and with None on a CPU without bf16 arithmetic, where they become fp32.
    fp16 uses loss scaling and requires a GPU."""
    distributed_mode: Literal["ddp", "fsdp2"] = "ddp"
    """New: each process has the whole model (``ddp``) or a shard of every layer (``fsdp2``)."""
    activation_checkpointing: bool = False
    """New: recompute the activations of decoder and sequence Q-Former layers in the backward pass, to save memory."""
    compile: bool = False
    """New: compile the decoder layers with torch.compile; the first steps are slow."""
    device: str = "cuda"
    """Device. "cuda" falls back to the CPU if no GPU is available."""
    pad_to_multiple: int = Field(default=16, ge=1)
    """New: pad rows to a multiple of this length. Fewer shapes are faster (CPU kernels are cached per shape)."""
    group_by_length: bool = False
    """New: group rows of similar length into batches, to reduce padding."""
    cache_features: bool = False
    """New: compute the features of the frozen encoders only once per medium. Requires ``..._eval`` processors."""
    features_dir: Path | None = None
    """New: folder of the features. None: ``output_dir/features``. Several runs can share a folder."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """New: interval of checkpoints in steps, in addition to those at the end of each epoch."""
    keep_last: int = Field(default=2, ge=1)
    """New: number of checkpoints to keep."""
    save_reference_pth: bool = False
    """New: also write ``checkpoint_N.pth`` (N is the epoch, from 0) in the reference's format to every checkpoint.
    Requires a frozen ViT and decoder, as in the reference."""
    valid_every_steps: int | None = Field(default=None, ge=1)
    """New: interval of validation in steps. The weights with the lowest loss are saved in ``best/``."""
    tensorboard: bool = False
    """New: write TensorBoard logs to ``output_dir/tensorboard``."""
    resume_ckpt_path: PathText | None = None
    """Checkpoint of this run to resume from, or "auto"."""
    evaluate: bool = False
    """Only compute the loss on the ``valid`` data sets, without training, for the checkpoint to resume from or else for
    the weights in ``model``. (The reference accepts this key but implements no evaluation.)"""
    train_splits: tuple[Literal["train"], ...] = ("train",)
    """Accepted for compatibility with the reference; the only split."""
    world_size: int = Field(default=1, ge=1)
    """Accepted for compatibility with the reference and ignored: torchrun sets the number of processes."""
    dist_url: str = "env://"
    """Accepted for compatibility with the reference and ignored: the environment of torchrun is used."""
    distributed: bool = True
    """Accepted for compatibility with the reference and ignored."""


class TrainConfig(ModelYaml):
    """A whole training YAML."""

    model: ModelConfig
    """Which weights are loaded and which parts are trained."""
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    """Training data. A key is the name of a format, or any name if ``format`` is set."""
    valid: dict[str, DatasetConfig] = {}
    """New: validation data; see run.valid_every_steps and run.evaluate."""
    run: RunConfig
    """Optimization, precision, checkpoints and output."""

    @model_validator(mode="after")
    def _validation_has_data_and_an_interval(self) -> TrainConfig:
        if self.run.evaluate and not self.valid:
            raise ValueError("run.evaluate computes the loss on the data sets in the section valid; add one")
        if bool(self.valid) != (self.run.valid_every_steps is not None or self.run.evaluate):
            raise ValueError(
                "valid data sets require run.valid_every_steps and vice versa; set both, or set run.evaluate"
            )
        return self

    @model_validator(mode="after")
    def _reference_checkpoint_is_possible(self) -> TrainConfig:
        model = self.model
        if self.run.save_reference_pth and (model.lora is not None or not model.freeze_llama or not model.freeze_vit):
            raise ValueError(
                "run.save_reference_pth: the reference's format has no decoder, adapters or ViT; "
                "set it to false, and use convert --to-reference on the merged folder"
            )
        return self
