"""The model that a run starts from: a model folder, or the published files named by the training YAML.

With published files, parts that the stage trains, and parts that it does not use, may be missing in the files and are
then initialized at random; all other parts are required. An audio branch is built only if it is trained, with
ImageBind's vision encoder, which encodes frames for it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from video_llama.checkpoints.assemble import Assembly
from video_llama.checkpoints.files import PICKLES, scan
from video_llama.checkpoints.folder import (
    Manifest,
    ModelFolder,
    check_fit,
    open_tokenizer,
    read_config,
    read_manifest,
    read_model_folder,
    read_settings,
)
from video_llama.checkpoints.initialization import INITIALIZABLE_PARTS
from video_llama.checkpoints.loading import load_assembly, plan
from video_llama.errors import CheckpointError, ConfigError
from video_llama.log import logger
from video_llama.models.cpu import emulates_bfloat16
from video_llama.models.placement import LoadOptions, meta_model
from video_llama.training.checkpoint import load_trained, read_trained, trained_file
from video_llama.training.config import ModelConfig, RunConfig, TrainConfig
from video_llama.training.lora import add_lora, split_lora
from video_llama.training.stages import Stage, stage_of


def load_starting_model(config: TrainConfig, source: str, device: torch.device) -> ModelFolder:
    """Load ``model.pretrained``, or the model assembled from the published files.

    ``source`` names the settings in errors. Raises ConfigError if neither is given, and CheckpointError for invalid or
    missing weights.
    """
    options = LoadOptions(
        device=device, dtype=weights_dtype(config.run, device), quantization=config.model.quantization
    )
    path = pretrained_folder(config.model)
    try:
        return load_published(config, source, options) if path is None else read_model_folder(path, options)
    except ValueError as error:
        raise ConfigError(f"model.quantization: {error}") from error


def weights_dtype(run: RunConfig, device: torch.device) -> torch.dtype | None:
    """Return the data type of frozen weights; None is the stored one.

    Half-precision weights become float32 with ``run.dtype: fp32``, and on a CPU without bfloat16 arithmetic, where a
    backward pass in bfloat16 takes many times as long, unless ``run.dtype`` is set.
    """
    is_float32 = run.dtype == "fp32" or (run.dtype is None and emulates_bfloat16(device))
    return torch.float32 if is_float32 else None


def load_published(config: TrainConfig, source: str, options: LoadOptions) -> ModelFolder:
    """Load a model from the published files. Randomly initialized parts are in ``manifest.untrained_parts``.

    Raises ConfigError and CheckpointError, with files and names, for missing parts, and ValueError for invalid options.
    """
    assembly = plan_published(config, source)
    for report in assembly.reports:
        logger.info("%s: %d tensors from %s", report.source.role, report.num_taken, report.source.path)
    return load_assembly(assembly, source, options, seed=config.run.seed)


def plan_published(config: TrainConfig, source: str) -> Assembly:
    """Return which tensor comes from which file, without reading values. Raises like :func:`load_published`."""
    model, stage = config.model, stage_of(config.model)
    if not model.llama_model:
        raise ConfigError(
            f"{source}: neither model.pretrained nor model.llama_model is set. Give a model folder, or the folder of "
            "the decoder and the other published files."
        )
    has_audio = model.equip_audio_branch and "audio" in stage.branches
    published = model.model_copy(
        update={
            "ckpt": model.ckpt if is_reference_file(model.ckpt) else "",
            "ckpt_2": model.ckpt_2 if is_reference_file(model.ckpt_2) else "",
            "equip_audio_branch": has_audio,
            "config": {"with_imagebind_vision": has_audio, **model.config},
        }
    )
    given = [name for path in trained_checkpoints(model) for name in scan(trained_file(path))]
    initializable = [
        part
        for part in INITIALIZABLE_PARTS
        if stage.trains(part) or not stage.reads(part) or any(name.startswith(part) for name in given)
    ]
    return plan(config.model_copy(update={"model": published}), source, initializable=initializable)


def pretrained_folder(model: ModelConfig) -> Path | None:
    """Return ``model.pretrained``. Raises CheckpointError if it is set and does not exist."""
    path = model.pretrained
    if path is not None and not path.exists():
        remedy = model.how_to_get or "Give a model folder."
        raise CheckpointError(f"model.pretrained: {path} does not exist. {remedy}")
    return path


def is_reference_file(path: str) -> bool:
    """Return whether a ``ckpt`` is a file of the reference; if not, it is a run or checkpoint of this project."""
    return path.endswith(PICKLES)


def trained_checkpoints(model: ModelConfig) -> list[str]:
    """Return the runs of this project in ``ckpt`` and ``ckpt_2``.

    Raises ConfigError for a file of the reference together with ``model.pretrained``.
    """
    given = {key: path for key, path in (("ckpt", model.ckpt), ("ckpt_2", model.ckpt_2)) if path}
    for key, path in given.items():
        if is_reference_file(path) and model.pretrained is not None:
            raise ConfigError(
                f"model.{key}: {path} is a file of the reference, and model.pretrained is a complete model. Remove "
                "model.pretrained and name all published files, or give a run or checkpoint of this project."
            )
    return [path for path in given.values() if not is_reference_file(path)]


def load_trained_parts(folder: ModelFolder, config: TrainConfig, stage: Stage, *, is_resumed: bool) -> None:
    """Load the runs in ``ckpt`` and ``ckpt_2`` and add adapters; log which parts are random.

    Raises ConfigError for a checkpoint with adapters without model.lora.
    """
    model = config.model
    checkpoints = [(path, *split_lora(read_trained(path))) for path in trained_checkpoints(model)]
    loaded: list[str] = []
    for path, _, others in checkpoints:
        load_trained(folder.model, others, source=path)
        loaded += others
        logger.info("%d tensors from %s", len(others), path)
    if model.lora is not None:
        add_lora(folder.model, model.lora, config.run.seed)
    for path, adapters, _ in checkpoints:
        if adapters and model.lora is None:
            raise ConfigError(
                f"model.lora: {path} has adapters. Set model.lora to their settings, or merge them first."
            )
        if adapters:
            load_trained(folder.model, adapters, source=path)
    _log_random_parts(folder, stage, loaded, is_resumed=is_resumed, is_evaluation=config.run.evaluate)


def _log_random_parts(
    folder: ModelFolder, stage: Stage, loaded: list[str], *, is_resumed: bool, is_evaluation: bool
) -> None:
    """Log the random parts that are trained; warn about random parts that affect the loss and are not trained."""
    for part in folder.manifest.untrained_parts:
        if any(name.startswith(part) for name in loaded):
            continue
        is_trained = stage.trains(part) or any(name.startswith(part) for name in stage.trained)
        if is_trained and is_resumed:
            continue
        if is_trained and not is_evaluation:
            logger.info("%s starts from random values", part)
        elif is_trained or stage.reads(part):
            name = folder.path or folder.manifest.name
            logger.warning("%s: %s has random weights that are not trained, and the loss depends on it", name, part)


def model_without_weights(config: TrainConfig, source: str) -> ModelFolder:
    """Return the starting model on the meta device, without weights, for checks of the data."""
    path = pretrained_folder(config.model)
    return _published_without_weights(config, source) if path is None else _folder_without_weights(path)


def _published_without_weights(config: TrainConfig, source: str) -> ModelFolder:
    assembly = plan_published(config, source)
    return ModelFolder(None, assembly.model, assembly.decoder.tokenizer, assembly.settings, Manifest(Path(source).stem))


def _folder_without_weights(path: Path) -> ModelFolder:
    config, settings = read_config(path), read_settings(path)
    tokenizer = open_tokenizer(path, settings)
    check_fit(config, settings, tokenizer)
    return ModelFolder(path, meta_model(config), tokenizer, settings, read_manifest(path))
