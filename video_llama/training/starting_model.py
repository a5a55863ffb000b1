"""A training YAML without a model folder: its keys name the published pieces, which make up the model that trains.

What the stage trains, and what it never reads, may be in no file and is then drawn; all else must be there. An audio
branch is built only where it trains, with ImageBind's vision trunk, which shows it frames.
"""

from __future__ import annotations

from pathlib import Path

from video_llama.checkpoints.assemble import Assembly
from video_llama.checkpoints.config import EvalConfig, ModelSection
from video_llama.checkpoints.files import PICKLES, scan
from video_llama.checkpoints.folder import Manifest, ModelFolder
from video_llama.checkpoints.initial import DRAWN_PARTS
from video_llama.checkpoints.loading import load_assembly, plan
from video_llama.errors import CheckpointError, ConfigError
from video_llama.log import logger
from video_llama.models.placement import LoadOptions
from video_llama.training.checkpoint import trained_file
from video_llama.training.config import ModelConfig, TrainConfig
from video_llama.training.stages import stage_of

SHARED_KEYS = (
    *("model_type", "llama_model", "imagebind_ckpt_path", "llama_proj_model", "q_former_model", "vit_ckpt_path"),
    *("num_query_token", "num_video_query_token", "num_audio_query_token", "fusion_head_layers", "max_frame_pos"),
)
"""Keys that a training YAML and an evaluation YAML have in common, and that decide what is built."""


def load_pieces(config: TrainConfig, source: str, options: LoadOptions) -> ModelFolder:
    """The model that a run begins with; what was drawn are the manifest's untrained parts.

    Raises ValueError for invalid options. Raises ConfigError and
    CheckpointError, with files and names, for what is needed and missing.
    """
    assembly = plan_pieces(config, source)
    for report in assembly.reports:
        logger.info("%s: %d tensors from %s", report.source.role, report.num_taken, report.source.path)
    return load_assembly(assembly, source, options, seed=config.run.seed)


def plan_pieces(config: TrainConfig, source: str) -> Assembly:
    """Which tensors come from where; no values are read. Raises as :func:`load_pieces`."""
    model, stage = config.model, stage_of(config.model)
    if not model.llama_model:
        raise ConfigError(
            f"{source}: neither model.pretrained nor model.llama_model is given. Give an assembled model folder, or "
            "the decoder's folder with the other published pieces."
        )
    hears = model.equip_audio_branch and "audio" in stage.branches
    section = ModelSection(
        **{key: getattr(model, key) for key in SHARED_KEYS},
        **{key: path for key in ("ckpt", "ckpt_2") if is_reference_file(path := getattr(model, key))},
        equip_audio_branch=hears,
        config={"with_imagebind_vision": hears, **model.config},
    )
    given = [name for path in trained_checkpoints(model) for name in scan(trained_file(path))]
    may_be_drawn = [
        part
        for part in DRAWN_PARTS
        if stage.trains(part) or not stage.reads(part) or any(name.startswith(part) for name in given)
    ]
    return plan(EvalConfig(model=section, datasets=config.datasets), source, may_be_drawn=may_be_drawn)


def pretrained_folder(model: ModelConfig) -> Path | None:
    """Return ``model.pretrained``. Raises CheckpointError if it is given and does not exist."""
    path = model.pretrained
    if path is not None and not path.exists():
        remedy = model.how_to_get or "Give a model folder."
        raise CheckpointError(f"model.pretrained: {path} does not exist. {remedy}")
    return path


def is_reference_file(path: str) -> bool:
    """Whether a ``ckpt`` is one of the reference's files, and so a piece; else it is a run of ours."""
    return path.endswith(PICKLES)


def trained_checkpoints(model: ModelConfig) -> list[str]:
    """The runs of ours among ``ckpt`` and ``ckpt_2``. Raises ConfigError for a piece beside a whole model."""
    given = {key: path for key, path in (("ckpt", model.ckpt), ("ckpt_2", model.ckpt_2)) if path}
    for key, path in given.items():
        if is_reference_file(path) and model.pretrained is not None:
            raise ConfigError(
                f"model.{key}: {path} is a file of the reference's, and model.pretrained a whole model. Leave "
                "pretrained out and name all pieces, or give a run or checkpoint of ours."
            )
    return [path for path in given.values() if not is_reference_file(path)]


def folder_without_weights(config: TrainConfig, source: str) -> ModelFolder:
    """The model of :func:`load_pieces` with shapes and no numbers: what data are checked against."""
    from video_llama.conversation import Tokenizer
    from video_llama.models.placement import meta_model

    assembly = plan_pieces(config, source)
    model = meta_model(assembly.config)
    tokenizer = Tokenizer(assembly.decoder.tokenizer_path, pad_token=assembly.settings.pad_token)
    return ModelFolder(None, model, tokenizer, assembly.settings, Manifest(Path(source).stem))
