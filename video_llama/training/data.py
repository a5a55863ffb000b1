"""Build the training sets of a run from ``datasets`` or ``valid``: samples, text, and the readers of their media.

Media are read from files in every step, or once, as features of the frozen encoders, which are cached on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from video_llama.checkpoints.folder import ModelFolder
from video_llama.conversation import Style, template_of
from video_llama.datasets.annotations import excluded_ids, read_samples
from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.datasets.content_hash import ContentHashes
from video_llama.datasets.features import CachedMedia, FeatureStore, cache_media
from video_llama.datasets.loading import TrainingSet
from video_llama.datasets.media import FileReader, MediaForm, SampleReader, SoundReader, frame_reader
from video_llama.datasets.rows import RowBuilder, TextRules
from video_llama.datasets.sample import Sample, SampleMedium
from video_llama.errors import ConfigError, DataError
from video_llama.files import read_text
from video_llama.log import logger
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.video_processor import VideoProcessor
from video_llama.training.config import ModelConfig, RunConfig, TrainConfig
from video_llama.training.distributed import World
from video_llama.training.stages import Stage

DatasetSection = Literal["datasets", "valid"]

_STYLES = {
    "vicuna": Style.SINGLE,
    "pretrain_vicuna": Style.SINGLE,
    "llama_v2": Style.LLAMA_2,
    "pretrain_llama_v2": Style.LLAMA_2,
    "chat_template": Style.TURNS,
}
_PIXEL_FORMS: dict[Branch, MediaForm] = {"vision": "pixel_values_videos", "audio": "audio_pixel_values"}
_FEATURE_FORMS: dict[Branch, MediaForm] = {"vision": "frame_tokens", "audio": "clip_embeddings"}


def training_sets(
    section: DatasetSection, config: TrainConfig, folder: ModelFolder, stage: Stage, world: World
) -> list[TrainingSet]:
    """Return the training sets of a section of ``config``.

    With cached features, the main process computes missing ones while the other processes wait. Raises ConfigError for
    settings that contradict the model or the stage, and DataError for invalid annotations.
    """
    rules = text_rules(config.model, folder)
    datasets = config.valid if section == "valid" else config.datasets
    return [
        _training_set(section, name, dataset, config, folder, stage, rules, world) for name, dataset in datasets.items()
    ]


def _training_set(
    section: DatasetSection,
    name: str,
    dataset: DatasetConfig,
    config: TrainConfig,
    folder: ModelFolder,
    stage: Stage,
    rules: TextRules,
    world: World,
) -> TrainingSet:
    where = f"{section}.{name}"
    check_dataset_settings(dataset, folder, where)
    branch = stage.branch_of(dataset, where)
    excluded = excluded_ids(dataset.exclude)
    samples = read_samples(dataset.format or name, dataset.build_info, where=where, excluded=excluded)
    readers = file_readers(where, name, dataset, folder, branch, samples)
    frames: SampleReader = readers.frames
    sounds: SampleReader | None = readers.sounds
    if config.run.cache_features:
        _check_cacheable(dataset, stage, where)
        cache = FeatureCache(config.run, folder, world, keeps_going=dataset.on_bad_media == "skip")
        frames, sounds, bad = cached_readers(readers, cache, branch, samples)
        samples = readable_samples(where, dataset, samples, bad)
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
            "run.cache_features: features cannot be cached with augmentation or trained encoders. Set it to false, or "
            f"freeze the encoders and set {where}.vis_processor.train.name to ..._eval "
            f"(it is {dataset.vis_processor.train.name})."
        )


# --- Settings of the text, and checks against the model


def text_rules(config: ModelConfig, folder: ModelFolder) -> TextRules:
    """Return the text settings of a run. Raises ConfigError for a prompt file without ``<ImageHere>``."""
    prompts: tuple[str, ...] = ()
    if config.prompt_path:
        path = Path(config.prompt_path)
        if not path.is_file():
            raise ConfigError(f"model.prompt_path: {path} does not exist. Give a file with one instruction per line.")
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.prompt_path: {path} cannot be read as text ({error}).") from error
        prompts = tuple(line.strip() for line in lines if "<ImageHere>" in line)
        if not prompts:
            raise ConfigError(
                f"model.prompt_path: no line of {path} contains <ImageHere>, the place of the medium. Add it."
            )
    own = folder.model.config
    return TextRules(
        folder.tokenizer,
        template_of(own.prompt_template, own.turn_format),
        own.num_video_query_tokens,
        own.num_audio_query_tokens,
        config.end_sym,
        config.max_txt_len,
        prompts,
        config.prompt_template,
    )


def check_model_settings(config: ModelConfig, folder: ModelFolder) -> None:
    """Raise ConfigError if a setting of the ``model`` section contradicts the model folder."""
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


def check_dataset_settings(config: DatasetConfig, folder: ModelFolder, where: str) -> None:
    """Raise ConfigError if a setting of a data set contradicts the model folder."""
    own = folder.model.config
    _check_equal(config.num_video_query_token, own.num_video_query_tokens, f"{where}.num_video_query_token")
    _check_equal(config.num_audio_query_token, own.num_audio_query_tokens, f"{where}.num_audio_query_token")
    frames = config.vis_processor.train
    _check_equal(frames.image_size, folder.settings.image_size, f"{where}.vis_processor.train.image_size")
    _check_style(config.model_type, folder, f"{where}.model_type")


def _check_equal(wanted: object, value: object, where: str) -> None:
    if wanted is not None and wanted != value:
        raise ConfigError(
            f"{where} is {wanted}, but the model folder has {value}. Remove the key, or use another folder."
        )


def _check_style(model_type: str | None, folder: ModelFolder, where: str) -> None:
    config = folder.model.config
    template = config.prompt_template
    if model_type is not None and template_of(template, config.turn_format).style is not _STYLES[model_type]:
        raise ConfigError(
            f"{where} is {model_type}, but the decoder of the model folder uses {template!r}. Correct one of them."
        )


# --- Readers of media files and cached features


@dataclass(frozen=True)
class MediaReaders:
    """The readers of a data set's frames and, if it has sound, of its sound."""

    frames: FileReader
    sounds: FileReader | None


def file_readers(
    where: str, name: str, dataset: DatasetConfig, folder: ModelFolder, branch: Branch, samples: Sequence[Sample]
) -> MediaReaders:
    """Return the readers of the media files of a data set.

    Raises ConfigError for more frames than the model has positions, and for media that the branch or the model does
    not support.
    """
    own = folder.model.config
    limit = own.max_frame_pos if branch == "vision" else own.max_audio_pos
    num_frames = dataset.vis_processor.train.n_frms
    if num_frames > limit:
        raise ConfigError(f"{where}.vis_processor.train.n_frms is {num_frames}, but the model has {limit} positions.")
    processor = VideoProcessor.from_settings(folder.settings)
    frames = frame_reader(dataset, dataset.format or name, processor, limit, _PIXEL_FORMS[branch])
    kinds = {medium.kind for sample in samples for medium in sample.media}
    if "audio" not in kinds:
        return MediaReaders(frames, None)
    if not own.with_audio_branch:
        raise ConfigError(f"{where} has sound, but the model folder has no audio branch. Use a folder with one.")
    if branch == "audio" and len(kinds) > 1:
        raise ConfigError(
            f"{where} has both sound and {', '.join(sorted(kinds - {'audio'}))} for the audio branch. Split it into "
            "two data sets, one with sound and one with frames."
        )
    return MediaReaders(frames, SoundReader(AudioProcessor(folder.settings)))


@dataclass(frozen=True)
class FeatureCache:
    """Makes readers of cached features. The main process computes missing features while the others wait.

    With ``keeps_going``, unreadable files are listed in ``CachedMedia.bad``; otherwise they raise MediaError.
    """

    run: RunConfig
    folder: ModelFolder
    world: World
    keeps_going: bool

    def frames(self, media: Sequence[SampleMedium], reader: FileReader, branch: Branch) -> CachedMedia:
        """Return a reader of the features of frames, from the frozen encoder of the branch."""
        model = self.folder.model.model
        if branch == "vision":
            return self._reader(media, reader, model.frame_encoder, model.encode_frames, _FEATURE_FORMS[branch])
        return self._reader(media, reader, model.imagebind_vision, model.encode_frames_as_clips, _FEATURE_FORMS[branch])

    def sounds(self, media: Sequence[SampleMedium], reader: FileReader) -> CachedMedia:
        """Return a reader of the ImageBind embeddings of sound."""
        model = self.folder.model.model
        return self._reader(media, reader, model.imagebind_audio, model.encode_clips, "sound_embeddings")

    def _reader(
        self,
        media: Sequence[SampleMedium],
        reader: FileReader,
        encoder: nn.Module,
        call: Callable[[Tensor], Tensor],
        form: MediaForm,
    ) -> CachedMedia:
        features_dir = features_folder(self.run)
        place = features_dir / encoder_key(encoder, self.folder, is_audio=form == "sound_embeddings")

        def fill() -> CachedMedia:
            encode = _without_gradients(call, self.world.device)
            store, contents = FeatureStore(place), ContentHashes(features_dir, writes=self.world.is_main)
            return cache_media(media, reader, store, contents, encode, form, keeps_going=self.keeps_going)

        filled = fill() if self.world.is_main else None
        self.world.barrier()
        return filled or fill()


def features_folder(run: RunConfig) -> Path:
    """Return the folder of cached features of a run."""
    return run.features_dir or run.output_dir / "features"


def cached_readers(
    readers: MediaReaders, cache: FeatureCache, branch: Branch, samples: Sequence[Sample]
) -> tuple[SampleReader, SampleReader | None, dict[SampleMedium, str]]:
    """Return readers of cached features for frames and sound, and the error of each unreadable medium."""
    media = [medium for sample in samples for medium in sample.media]
    visual = [medium for medium in media if medium.kind != "audio"]
    audio = [medium for medium in media if medium.kind == "audio"]
    frames = cache.frames(visual, readers.frames, branch) if visual else None
    sounds = cache.sounds(audio, readers.sounds) if readers.sounds else None
    bad: dict[SampleMedium, str] = {}
    for cached, files in ((frames, visual), (sounds, audio)):
        if cached is not None:
            bad |= {medium: cached.bad[medium.path] for medium in files if medium.path in cached.bad}
    return frames or readers.frames, sounds, bad


def readable_samples(
    where: str, dataset: DatasetConfig, samples: Sequence[Sample], bad: Mapping[SampleMedium, str]
) -> list[Sample]:
    """Return the samples without unreadable media. Raises DataError if more than ``max_bad_share`` are unreadable."""
    left_out = [(sample, bad[medium]) for sample in samples for medium in sample.media if medium in bad]
    if not left_out:
        return list(samples)
    ids = {sample.id for sample, _ in left_out}
    for reason in dict.fromkeys(reason for _, reason in left_out):
        logger.warning("%s: skipped: %s", where, reason)
    logger.warning("%s: %d of %d samples are skipped", where, len(ids), len(samples))
    if len(ids) > dataset.max_bad_share * len(samples):
        raise DataError(
            f"{where}: {len(ids)} of {len(samples)} samples are unreadable, more than max_bad_share "
            f"{dataset.max_bad_share}. Check the files, or raise max_bad_share."
        )
    return [sample for sample in samples if sample.id not in ids]


def encoder_key(encoder: nn.Module, folder: ModelFolder, *, is_audio: bool = False) -> str:
    """Return a hash of the weights of an encoder and of the preprocessing of its inputs."""
    settings = folder.settings
    read: tuple[object, ...] = (settings.image_size, settings.image_mean, settings.image_std)
    if is_audio:
        read = (settings.sampling_rate, settings.num_mel_bins, settings.target_length, settings.clip_seconds)
        read += (settings.audio_mean, settings.audio_std)
    digest = hashlib.sha256(repr(read).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _without_gradients(call: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    def encode(media: Tensor) -> Tensor:
        with torch.inference_mode():
            return call(media.to(device))

    return encode
