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
"""Text that the tokens of a medium replace, as written by chat_template.jinja."""
VIDEO_TAGS = ("<Video>", "<Image>")
"""A placeholder after one of these is replaced by frames, any other by sound."""

_FROM_MODEL = ("num_video_query_tokens", "num_audio_query_tokens", "video_token_id", "audio_token_id", "max_frame_pos")
_NOT_SCALARS = ("self", "tokenizer", "chat_template", "__class__")


class VideoLlamaProcessor(ProcessorMixin):
    """Prepare prompts and media for the model.

    ``processor(text, videos=..., audio=...)`` returns ``input_ids`` and ``attention_mask`` [B, L] (left-padded),
    ``pixel_values_videos`` [N, T, 3, H, W] and ``input_features`` [N, S, 1, mel bins, time steps], in the order of
    their placeholders. The arguments of the constructor are those of ``processor_config.json`` and of the model's
    config; none has a default.
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
        """Return the folder's ``processor_config.json``, with the values taken from its ``config.json``."""
        scalars, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        config = AutoConfig.from_pretrained(pretrained_model_name_or_path)
        scalars.pop("prompt_template", None)
        return {**scalars, **{name: getattr(config, name) for name in _FROM_MODEL}}, kwargs

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``processor_config.json``: the scalars that are not in ``config.json``."""
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
        """Tokenize prompts and read their media.

        Args:
            text: one prompt or several, with a placeholder for each medium.
            videos: paths, bytes or file objects, in the order of the placeholders.
            audio: files with sound; they can be the same files as ``videos``.
            images: images, as videos of one frame; not together with ``videos``.
            frames: which frames are sampled (default: the model's number of frames, uniformly).

        Raises:
            PromptError: the number of placeholders and media differ.
            MediaError: a file cannot be used.
        """
        if videos and images:
            raise ValueError("Both videos and images are given. Give the images as videos, in the same order.")
        prompts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(prompt) for prompt in prompts]
        size = self.video_processor.size
        sampling = frames or FrameSampling(num_frames=self.num_frames)
        visual = [
            read_video(each, size=size, sampling=sampling, max_frames=self.max_frame_pos) for each in videos or ()
        ]
        visual += [read_image(each, size=size) for each in images or ()]
        mels = [self.feature_extractor.read(each).mel for each in audio or ()]
        self._check_count("video", rows, self.video_token_id, self.num_video_query_tokens, len(visual))
        self._check_count("audio", rows, self.audio_token_id, self.num_audio_query_tokens, len(mels))
        inputs: dict[str, Any] = self._padded(rows)
        if visual:
            inputs["pixel_values_videos"] = _batched([self.video_processor(each.frames) for each in visual])
        if mels:
            inputs["input_features"] = _batched(mels)
        return BatchFeature(inputs)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt, with a run of placeholder ids per medium; a leading ``<s>`` is BOS."""
        for place in ("<video>", "<audio>"):  # as written by chat_template.jinja
            prompt = prompt.replace(place, MEDIA_PLACEHOLDER)
        segments = prompt.removeprefix(self.tokenizer.bos_token).split(MEDIA_PLACEHOLDER)
        ids = [self.tokenizer.bos_token_id]
        for index, segment in enumerate(segments):
            if index:
                is_video = segments[index - 1].endswith(VIDEO_TAGS)
                token = self.video_token_id if is_video else self.audio_token_id
                ids += [token] * (self.num_video_query_tokens if is_video else self.num_audio_query_tokens)
            ids += [token for stretch in self._stretches(segment) for token in stretch]
        return ids

    def _stretches(self, segment: str) -> Iterator[list[int]]:
        """Yield the ids of the special tokens and of the text between them."""
        special = {token for token in self.tokenizer.all_special_tokens if token != MEDIA_PLACEHOLDER}
        for chunk in re.split("(" + "|".join(map(re.escape, sorted(special))) + ")", segment):
            if chunk in special:
                yield [self.tokenizer.convert_tokens_to_ids(chunk)]
            elif chunk:
                yield self.tokenizer(chunk, add_special_tokens=False).input_ids

    def _check_count(self, kind: str, rows: list[list[int]], token: int, length: int, num_media: int) -> None:
        num_placeholders = sum(row.count(token) for row in rows) // length
        if num_placeholders != num_media:
            raise PromptError(
                f"The text has {num_placeholders} placeholders for {kind}, but {num_media} media are given. A "
                f"placeholder is {MEDIA_PLACEHOLDER}, for frames after {' or '.join(VIDEO_TAGS)}."
            )

    def _padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        length = max(map(len, rows))
        ids = [[self.tokenizer.pad_token_id] * (length - len(row)) + row for row in rows]
        mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _plain(value: Any) -> Any:
    """Return lists (from JSON) as tuples."""
    return tuple(value) if isinstance(value, list) else value


def _batched(media: list[np.ndarray]) -> Tensor | list[Tensor]:
    """Return one tensor if all media have the same length, else a list; the model accepts both."""
    tensors = [torch.from_numpy(each) for each in media]
    return torch.stack(tensors) if len({len(each) for each in tensors}) == 1 else tensors
