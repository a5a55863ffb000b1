"""Where a data set's media come from in a run: read from files at every step, or frozen encoders' features of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from video_llama.checkpoints.folder import ModelFolder
from video_llama.datasets.config import Branch, DatasetConfig
from video_llama.datasets.content_hash import ContentHashes
from video_llama.datasets.features import CachedMedia, FeatureStore, cache_media
from video_llama.datasets.media import FileReader, MediaForm, SampleReader, SoundReader, frame_reader
from video_llama.datasets.sample import Sample, SampleMedium
from video_llama.errors import ConfigError, DataError
from video_llama.log import logger
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.video_processor import VideoProcessor
from video_llama.training.config import RunConfig
from video_llama.training.distributed import World

_PIXEL_FORMS: dict[Branch, MediaForm] = {"vision": "pixel_values_videos", "audio": "audio_pixel_values"}
_FEATURE_FORMS: dict[Branch, MediaForm] = {"vision": "frame_tokens", "audio": "clip_embeddings"}


@dataclass(frozen=True)
class Readers:
    """What reads a data set's frames and, where it has sound, its sound."""

    frames: FileReader
    sounds: FileReader | None


def file_readers(
    where: str, name: str, dataset: DatasetConfig, folder: ModelFolder, branch: Branch, samples: Sequence[Sample]
) -> Readers:
    """Raises ConfigError for more frames than positions, and for media that the branch or the model cannot take."""
    own = folder.model.config
    limit = own.max_frame_pos if branch == "vision" else own.max_audio_pos
    num_frames = dataset.vis_processor.train.n_frms
    if num_frames > limit:
        raise ConfigError(f"{where}.vis_processor.train.n_frms is {num_frames}, the model has {limit} positions.")
    processor = VideoProcessor.from_settings(folder.settings)
    frames = frame_reader(dataset, dataset.format or name, processor, limit, _PIXEL_FORMS[branch])
    kinds = {medium.kind for sample in samples for medium in sample.media}
    if "audio" not in kinds:
        return Readers(frames, None)
    if not own.with_audio_branch:
        raise ConfigError(f"{where} has sound, and the model folder no audio branch. Use a folder that has one.")
    if branch == "audio" and len(kinds) > 1:
        raise ConfigError(
            f"{where} shows the audio branch both sound and {', '.join(sorted(kinds - {'audio'}))}. Make two "
            "data sets of it: one of sound, one of frames in the place of sound."
        )
    return Readers(frames, SoundReader(AudioProcessor(folder.settings)))


@dataclass(frozen=True)
class FeatureCache:
    """Makes sources of features: computed by the main process where they are not kept yet; the others wait.

    ``keeps_going``: a file that cannot be read is noted in the source's ``bad``; else it raises MediaError.
    """

    run: RunConfig
    folder: ModelFolder
    world: World
    keeps_going: bool

    def frames(self, media: Sequence[SampleMedium], reader: FileReader, branch: Branch) -> CachedMedia:
        """Frames as what the branch's frozen encoder says of them."""
        model = self.folder.model.model
        if branch == "vision":
            return self._source(media, reader, model.frame_encoder, model.encode_frames, _FEATURE_FORMS[branch])
        return self._source(media, reader, model.imagebind_vision, model.encode_frames_as_clips, _FEATURE_FORMS[branch])

    def sounds(self, media: Sequence[SampleMedium], reader: FileReader) -> CachedMedia:
        """Sound as ImageBind's embeddings."""
        model = self.folder.model.model
        return self._source(media, reader, model.imagebind_audio, model.encode_clips, "sound_embeddings")

    def _source(
        self,
        media: Sequence[SampleMedium],
        reader: FileReader,
        encoder: nn.Module,
        call: Callable[[Tensor], Tensor],
        form: MediaForm,
    ) -> CachedMedia:
        features_dir = self.run.features_dir or self.run.output_dir / "features"
        place = features_dir / encoder_key(encoder, self.folder, hears=form == "sound_embeddings")

        def fill() -> CachedMedia:
            encode = _without_gradients(call, self.world.device)
            store, contents = FeatureStore(place), ContentHashes(features_dir, writes=self.world.is_main)
            return cache_media(media, reader, store, contents, encode, form, keeps_going=self.keeps_going)

        filled = fill() if self.world.is_main else None
        self.world.barrier()
        return filled or fill()


def cached_sources(
    readers: Readers, cache: FeatureCache, branch: Branch, samples: Sequence[Sample]
) -> tuple[SampleReader, SampleReader | None, dict[SampleMedium, str]]:
    """Sources of features in the place of the readers, and the media that could not be read, with the reasons."""
    media = [medium for sample in samples for medium in sample.media]
    shown = [medium for medium in media if medium.kind != "audio"]
    heard = [medium for medium in media if medium.kind == "audio"]
    frames = cache.frames(shown, readers.frames, branch) if shown else None
    sounds = cache.sounds(heard, readers.sounds) if readers.sounds else None
    bad: dict[SampleMedium, str] = {}
    for source, files in ((frames, shown), (sounds, heard)):
        if source is not None:
            bad |= {medium: source.bad[medium.path] for medium in files if medium.path in source.bad}
    return frames or readers.frames, sounds, bad


def readable(
    where: str, dataset: DatasetConfig, samples: Sequence[Sample], bad: Mapping[SampleMedium, str]
) -> list[Sample]:
    """The samples without a bad medium. Raises DataError where these leave out more than ``max_bad_share``."""
    left_out = [(sample, bad[medium]) for sample in samples for medium in sample.media if medium in bad]
    if not left_out:
        return list(samples)
    ids = {sample.id for sample, _ in left_out}
    for reason in dict.fromkeys(reason for _, reason in left_out):
        logger.warning("%s: left out: %s", where, reason)
    logger.warning("%s: %d of %d samples are left out", where, len(ids), len(samples))
    if len(ids) > dataset.max_bad_share * len(samples):
        raise DataError(
            f"{where}: {len(ids)} of {len(samples)} samples cannot be read, more than max_bad_share "
            f"{dataset.max_bad_share}. Look at the files, or raise it."
        )
    return [sample for sample in samples if sample.id not in ids]


def encoder_key(encoder: nn.Module, folder: ModelFolder, *, hears: bool = False) -> str:
    """Names one state of an encoder and of what it reads: features of another are never mixed in."""
    settings = folder.settings
    read: tuple[object, ...] = (settings.image_size, settings.image_mean, settings.image_std)
    if hears:
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
