"""The ``datasets`` section and a model folder become training sets: samples, texts and where their media come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from video_llama.chat.folder import ModelFolder
from video_llama.conversation import TEMPLATES, Style
from video_llama.datasets.annotations import Sample, read_samples
from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.datasets.features import FeatureStore, cache_media
from video_llama.datasets.loading import TrainingSet
from video_llama.datasets.media import FrameReader, MediaForm, MediaSource, frame_reader
from video_llama.datasets.rows import RowBuilder, TextRules
from video_llama.errors import ConfigError
from video_llama.log import logger
from video_llama.training.config import ModelConfig, TrainConfig
from video_llama.training.distributed import World
from video_llama.training.stages import Stage

_STYLES = {
    "vicuna": Style.SINGLE,
    "pretrain_vicuna": Style.SINGLE,
    "llama_v2": Style.LLAMA_2,
    "pretrain_llama_v2": Style.LLAMA_2,
}
_PIXEL_FORMS: dict[Branch, MediaForm] = {"vision": "pixel_values_videos", "audio": "audio_pixel_values"}
_FEATURE_FORMS: dict[Branch, MediaForm] = {"vision": "frame_tokens", "audio": "clip_embeddings"}


def training_sets(config: TrainConfig, folder: ModelFolder, stage: Stage, world: World) -> list[TrainingSet]:
    """The mixture, with features computed where the run caches them (by the main process; the others wait).

    Raises ConfigError where a setting does not fit the model or the stage, DataError for annotations.
    """
    rules = text_rules(config.model, folder)
    sets = []
    for name, dataset in config.datasets.items():
        where = f"datasets.{name}"
        _check_fit(dataset, folder, where)
        branch = stage.branch_of(dataset, where)
        if config.run.cache_features and (dataset.vis_processor.train.is_augmented or not stage.encoders_are_frozen):
            raise ConfigError(
                f"run.cache_features: features of what changes cannot be kept. Set it to false, or freeze the encoders "
                f"and set {where}.vis_processor.train.name to ..._eval (it is {dataset.vis_processor.train.name})."
            )
        samples = read_samples(dataset.format or name, dataset.build_info, where=where)
        media = _media(config, folder, dataset, name, branch, samples, world)
        builder = RowBuilder(rules, dataset, branch)
        is_fixed = config.run.cache_features
        sets.append(TrainingSet(name, samples, builder, media, dataset.sample_ratio, config.run.seed, is_fixed))
        logger.info("%s: %d rows for the %s branch", where, len(samples), branch)
    return sets


def text_rules(config: ModelConfig, folder: ModelFolder) -> TextRules:
    """What all rows share. Raises ConfigError for a prompt file without a usable line."""
    prompts: tuple[str, ...] = ()
    if config.prompt_path:
        path = Path(config.prompt_path)
        if not path.is_file():
            raise ConfigError(f"model.prompt_path: {path} does not exist. Give a file of instructions, one a line.")
        lines = path.read_text(encoding="utf-8").splitlines()
        prompts = tuple(line.strip() for line in lines if "<ImageHere>" in line)
        if not prompts:
            raise ConfigError(f"model.prompt_path: no line of {path} has <ImageHere>, where the medium goes. Add it.")
    own = folder.model.config
    return TextRules(
        folder.tokenizer,
        own.prompt_template,
        own.num_video_query_tokens,
        own.num_audio_query_tokens,
        config.end_sym,
        config.max_txt_len,
        prompts,
        config.prompt_template,
    )


def check_model(config: ModelConfig, folder: ModelFolder) -> None:
    """Raise ConfigError where a setting contradicts the model folder."""
    own = folder.model.config
    _check_style(config.model_type, folder, "model.model_type")
    for key, wanted, value in (
        ("num_query_token", config.num_query_token, own.num_query_tokens),
        ("num_video_query_token", config.num_video_query_token, own.num_video_query_tokens),
        ("num_audio_query_token", config.num_audio_query_token, own.num_audio_query_tokens),
        ("fusion_head_layers", config.fusion_head_layers, own.fusion_head_layers),
        ("max_frame_pos", config.max_frame_pos, own.max_frame_pos),
        ("fusion_header_type", config.fusion_header_type, own.fusion_header_type),
    ):
        _check_equal(wanted, value, f"model.{key}")


def _check_fit(config: DatasetConfig, folder: ModelFolder, where: str) -> None:
    own = folder.model.config
    _check_equal(config.num_video_query_token, own.num_video_query_tokens, f"{where}.num_video_query_token")
    _check_equal(config.num_audio_query_token, own.num_audio_query_tokens, f"{where}.num_audio_query_token")
    frames = config.vis_processor.train
    _check_equal(frames.image_size, folder.settings.image_size, f"{where}.vis_processor.train.image_size")
    _check_style(config.model_type, folder, f"{where}.model_type")


def _check_equal(wanted: object, value: object, where: str) -> None:
    if wanted is not None and wanted != value:
        raise ConfigError(
            f"{where} is {wanted} and the model folder has {value}. Leave the key out, or use another folder."
        )


def _check_style(model_type: str | None, folder: ModelFolder, where: str) -> None:
    template = folder.model.config.prompt_template
    if model_type is not None and TEMPLATES[template].style is not _STYLES[model_type]:
        raise ConfigError(
            f"{where} is {model_type} and the model folder's decoder uses {template!r}. Correct one of them."
        )


def _media(
    config: TrainConfig,
    folder: ModelFolder,
    dataset: DatasetConfig,
    name: str,
    branch: Branch,
    samples: list[Sample],
    world: World,
) -> MediaSource:
    own = folder.model.config
    limit = own.max_frame_pos if branch == "vision" else own.max_audio_pos
    num_frames = dataset.vis_processor.train.n_frms
    if num_frames > limit:
        raise ConfigError(
            f"datasets.{name}.vis_processor.train.n_frms is {num_frames}, the model has {limit} positions."
        )
    processor = folder.settings.video_processor()
    reader = frame_reader(dataset, dataset.format or name, processor, limit, _PIXEL_FORMS[branch])
    if not config.run.cache_features:
        return reader
    features_dir = config.run.features_dir or config.run.output_dir / "features"
    return _cached(features_dir, folder, branch, samples, reader, world)


def _cached(
    features_dir: Path,
    folder: ModelFolder,
    branch: Branch,
    samples: list[Sample],
    reader: FrameReader,
    world: World,
) -> MediaSource:
    model = folder.model.model
    encoder, call = (
        (model.frame_encoder, model.encode_frames)
        if branch == "vision"
        else (model.imagebind_vision, model.encode_frames_as_clips)
    )
    place = features_dir / encoder_key(encoder, folder)
    form = _FEATURE_FORMS[branch]
    if world.is_main:
        cache_media(samples, reader, FeatureStore(place), _without_gradients(call, world.device), form)
    world.barrier()
    return cache_media(samples, reader, FeatureStore(place), _without_gradients(call, world.device), form)


def encoder_key(encoder: nn.Module, folder: ModelFolder) -> str:
    """Names one state of an encoder and of the pixels that it reads: features of another are never mixed in."""
    settings = folder.settings
    digest = hashlib.sha256(repr((settings.image_size, settings.image_mean, settings.image_std)).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _without_gradients(call: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    def encode(frames: Tensor) -> Tensor:
        with torch.inference_mode():
            return call(frames.to(device))

    return encode
