"""``datasets`` or ``valid`` and a model folder become training sets: samples, texts and where their media come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from video_llama.checkpoints.folder import ModelFolder
from video_llama.conversation import TEMPLATES, Style
from video_llama.datasets.annotations import excluded_ids, read_samples
from video_llama.datasets.config import DatasetConfig
from video_llama.datasets.loading import TrainingSet
from video_llama.datasets.media import SampleReader
from video_llama.datasets.rows import RowBuilder, TextRules
from video_llama.errors import ConfigError
from video_llama.log import logger
from video_llama.training.config import ModelConfig, TrainConfig
from video_llama.training.distributed import World
from video_llama.training.encoding import FeatureCache, cached_sources, file_readers, readable
from video_llama.training.stages import Stage

Section = Literal["datasets", "valid"]

_STYLES = {
    "vicuna": Style.SINGLE,
    "pretrain_vicuna": Style.SINGLE,
    "llama_v2": Style.LLAMA_2,
    "pretrain_llama_v2": Style.LLAMA_2,
}


def training_sets(
    section: Section, config: TrainConfig, folder: ModelFolder, stage: Stage, world: World
) -> list[TrainingSet]:
    """The sets of a section of ``config``.

    Features are computed where the run caches them (by the main process; the others wait).
    Raises ConfigError where a setting does not fit the model or the stage, DataError for annotations.
    """
    rules = text_rules(config.model, folder)
    datasets = config.valid if section == "valid" else config.datasets
    return [
        _training_set(section, name, dataset, config, folder, stage, rules, world) for name, dataset in datasets.items()
    ]


def _training_set(
    section: Section,
    name: str,
    dataset: DatasetConfig,
    config: TrainConfig,
    folder: ModelFolder,
    stage: Stage,
    rules: TextRules,
    world: World,
) -> TrainingSet:
    where = f"{section}.{name}"
    check_fit(dataset, folder, where)
    branch = stage.branch_of(dataset, where)
    excluded = excluded_ids(dataset.exclude)
    samples = read_samples(dataset.format or name, dataset.build_info, where=where, excluded=excluded)
    readers = file_readers(where, name, dataset, folder, branch, samples)
    frames: SampleReader = readers.frames
    sounds: SampleReader | None = readers.sounds
    if config.run.cache_features:
        _check_cacheable(dataset, stage, where)
        cache = FeatureCache(config.run, folder, world, keeps_going=dataset.on_bad_media == "skip")
        frames, sounds, bad = cached_sources(readers, cache, branch, samples)
        samples = readable(where, dataset, samples, bad)
    logger.info("%s: %d rows for the %s branch", where, len(samples), branch)
    return TrainingSet(
        name,
        samples,
        RowBuilder(rules, dataset, branch),
        frames,
        dataset.sample_ratio,
        config.run.seed,
        is_fixed=config.run.cache_features,
        sounds=sounds,
        skips_bad_media=dataset.on_bad_media == "skip",
    )


def _check_cacheable(dataset: DatasetConfig, stage: Stage, where: str) -> None:
    if dataset.vis_processor.train.is_augmented or not stage.encoders_are_frozen:
        raise ConfigError(
            f"run.cache_features: features of what changes cannot be kept. Set it to false, or freeze the encoders "
            f"and set {where}.vis_processor.train.name to ..._eval (it is {dataset.vis_processor.train.name})."
        )


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


def check_fit(config: DatasetConfig, folder: ModelFolder, where: str) -> None:
    """Raise ConfigError where a data set's settings contradict the model folder."""
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
