"""The Hugging Face processor of a model folder: files and prompts with ``<ImageHere>`` in, model inputs out.

``AutoProcessor.from_pretrained`` returns it after ``import video_llama.checkpoints.auto``. It declares only the
tokenizer: transformers' video processors require torchvision, so frames and sound are processed by our own classes,
made from the scalars of ``processor_config.json``. Token ids equal those of ``conversation.encode_prompt``: each
stretch of text between media is encoded on its own, the first with BOS. ``chat`` does not use this class.
"""

# N media, T frames, S clips, B prompts, L prompt length

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, BatchFeature, ProcessorMixin

from video_llama.errors import PromptError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.video_processor import VideoProcessor, read_image, read_video

MEDIA_PLACEHOLDER = "<ImageHere>"
"""Where a medium goes, seen or heard; chat_template.jinja writes it."""
SIGHT_TAGS = ("<Video>", "<Image>")
"""Behind these a placeholder stands for frames, elsewhere for sound."""

_FROM_MODEL = ("num_video_query_tokens", "num_audio_query_tokens", "video_token_id", "audio_token_id", "max_frame_pos")
_NOT_SCALARS = ("self", "tokenizer", "chat_template", "__class__")


class VideoLlamaProcessor(ProcessorMixin):
    """The scalars are those of ``processor_config.json`` and of the model's config; nothing here has a default.

    ``processor(text, videos=..., audio=...)`` gives ``input_ids`` and ``attention_mask`` [B, L] (padded on the left),
    ``pixel_values_videos`` [N, T, 3, H, W] and ``input_features`` [N, S, 1, mel bins, frames], media in the order of
    their places.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        num_frames: int,
        sampling_rate: int,
        num_mel_bins: int,
        target_length: int,
        clip_seconds: float,
        num_clips: int,
        audio_mean: float,
        audio_std: float,
        pad_token: str | None,
        num_video_query_tokens: int,
        num_audio_query_tokens: int,
        video_token_id: int,
        audio_token_id: int,
        max_frame_pos: int,
        chat_template: str | None = None,
    ) -> None:
        scalars = {name: value for name, value in locals().items() if name not in _NOT_SCALARS}
        super().__init__(tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self._scalars = scalars
        self.num_frames, self.max_frame_pos = num_frames, max_frame_pos
        self.video_token_id, self.audio_token_id = video_token_id, audio_token_id
        self.num_video_query_tokens, self.num_audio_query_tokens = num_video_query_tokens, num_audio_query_tokens
        known = {each.name for each in fields(ProcessorSettings)}
        settings = ProcessorSettings(**{name: _plain(value) for name, value in scalars.items() if name in known})
        self.video_processor = VideoProcessor.from_settings(settings)
        self.feature_extractor = AudioProcessor(settings)

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The folder's scalars, with those that its ``config.json`` owns."""
        scalars, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        config = AutoConfig.from_pretrained(pretrained_model_name_or_path)
        return {**scalars, **{name: getattr(config, name) for name in _FROM_MODEL}}, kwargs

    def to_dict(self) -> dict[str, Any]:
        """What ``processor_config.json`` holds: the scalars that belong to no other file."""
        return {name: value for name, value in self._scalars.items() if name not in _FROM_MODEL}

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values_videos", "input_features"]

    def __call__(
        self,
        text: str | Sequence[str],
        videos: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        images: Sequence[Any] | None = None,
        frames: FrameSampling | None = None,
    ) -> BatchFeature:
        """Prompts and the media of their places, in order: paths, bytes or file objects.

        ``videos`` and ``audio`` (files with sound) may be the same files. ``images`` stand in the places of videos of
        one frame; a call has one of the two. ``frames`` None takes the model's own number, uniformly. Raises
        PromptError where places and media do not agree in number, MediaError for files that cannot be used.
        """
        if videos and images:
            raise ValueError("videos and images are given. Give the images as videos, in their places.")
        prompts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(prompt) for prompt in prompts]
        size = self.video_processor.size
        sampling = frames or FrameSampling(num_frames=self.num_frames)
        seen = [read_video(each, size=size, sampling=sampling, max_frames=self.max_frame_pos) for each in videos or ()]
        seen += [read_image(each, size=size) for each in images or ()]
        heard = [self.feature_extractor.read(each).mel for each in audio or ()]
        self._check_count("video", rows, self.video_token_id, self.num_video_query_tokens, len(seen))
        self._check_count("audio", rows, self.audio_token_id, self.num_audio_query_tokens, len(heard))
        inputs: dict[str, Any] = self._padded(rows)
        if seen:
            inputs["pixel_values_videos"] = _batched([self.video_processor(each.frames) for each in seen])
        if heard:
            inputs["input_features"] = _batched(heard)
        return BatchFeature(inputs)

    def encode(self, prompt: str) -> list[int]:
        """Ids of one prompt with a run of placeholder ids for each medium; a written ``<s>`` at its begin is BOS."""
        segments = prompt.removeprefix(self.tokenizer.bos_token).split(MEDIA_PLACEHOLDER)
        ids = [self.tokenizer.bos_token_id]
        for index, segment in enumerate(segments):
            if index:
                is_seen = segments[index - 1].endswith(SIGHT_TAGS)
                token = self.video_token_id if is_seen else self.audio_token_id
                ids += [token] * (self.num_video_query_tokens if is_seen else self.num_audio_query_tokens)
            ids += [token for stretch in self._stretches(segment) for token in stretch]
        return ids

    def _stretches(self, segment: str) -> Iterator[list[int]]:
        """Ids between and of special tokens. SentencePiece puts its mark before every stretch, transformers' tokenizer
        only where no space stands: it is given one more there."""
        special = {token for token in self.tokenizer.all_special_tokens if token != MEDIA_PLACEHOLDER}
        for chunk in re.split("(" + "|".join(map(re.escape, sorted(special))) + ")", segment):
            if chunk in special:
                yield [self.tokenizer.convert_tokens_to_ids(chunk)]
            elif chunk:
                chunk = f" {chunk}" if chunk.startswith(" ") else chunk
                yield self.tokenizer(chunk, add_special_tokens=False).input_ids

    def _check_count(self, kind: str, rows: list[list[int]], token: int, length: int, num_media: int) -> None:
        num_places = sum(row.count(token) for row in rows) // length
        if num_places != num_media:
            raise PromptError(
                f"The text has {num_places} places for {kind}, and {num_media} are given. A place is "
                f"{MEDIA_PLACEHOLDER}, for frames behind {' or '.join(SIGHT_TAGS)}."
            )

    def _padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        length = max(map(len, rows))
        ids = [[self.tokenizer.pad_token_id] * (length - len(row)) + row for row in rows]
        mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _plain(value: Any) -> Any:
    """Return lists, as JSON has them, as tuples."""
    return tuple(value) if isinstance(value, list) else value


def _batched(media: list[np.ndarray]) -> Tensor | list[Tensor]:
    """One tensor where all are of one length, else a list, as the model takes both."""
    tensors = [torch.from_numpy(each) for each in media]
    return torch.stack(tensors) if len({len(each) for each in tensors}) == 1 else tensors
