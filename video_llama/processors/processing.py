"""The Hugging Face processor of a model folder: prompts, messages and media in, model inputs out.

``AutoProcessor.from_pretrained`` returns it after ``import video_llama.auto``. It declares only the tokenizer:
transformers' video processors require torchvision, so frames and sound are read and processed by our own classes, made
from the numbers of ``processor_config.json``. Token ids equal those of ``conversation.encode_prompt``.
"""

# N media, T frames, S clips, B prompts, L prompt length

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from video_llama.conversation import AUDIO_PLACE, TOKENIZER_MODEL, VIDEO_PLACE
from video_llama.processors.audio_processor import AudioClips, AudioProcessor
from video_llama.processors.decoded_media import (
    is_clip,
    is_picture,
    is_waveform,
    read_frames,
    read_picture,
    resolve,
    waveform_of,
)
from video_llama.processors.frontends import FramesProcessor, SoundProcessor
from video_llama.processors.media_places import (
    Place,
    Replacement,
    assign_media,
    expanded,
    insert_sentences,
    shifted,
    with_insertions,
)
from video_llama.processors.nested_inputs import GivenMedia, given_audio, given_images, given_videos
from video_llama.processors.processing_files import names_of, plain, template_of, tokenizer_of
from video_llama.processors.processing_messages import MessagesMixin, as_like, rows_of
from video_llama.processors.processing_options import ReadingOptions, VideoLlamaProcessorKwargs
from video_llama.processors.settings import PROCESSOR_CLASS, ModelNumbers, ProcessorSettings
from video_llama.processors.sound_clips import SoundClips
from video_llama.processors.video_processor import SampledVideo, read_image, read_video

TYPE_IDS = {"image": 1, "video": 2, "audio": 3}
"""``mm_token_type_ids`` of the tokens of a medium; those of text are 0."""


class VideoLlamaProcessor(MessagesMixin):
    """Prepare prompts and media for the model.

    ``apply_chat_template`` takes messages, and calling the processor takes prompts with the places ``<video>`` (a video
    or an image) and ``<audio>``. Both return ``input_ids`` and ``attention_mask`` [B, L], padded on the left, and the
    media in the order of their places: ``pixel_values_videos`` [N, T, 3, H, W] (a list of N tensors if T differs),
    ``pixel_values`` [N, 3, H, W] if all are images, ``input_features`` [N, S, 1, mel bins, time steps].

    Args:
        tokenizer: tokenizer with the tokens ``<video>`` and ``<audio>``.
        chat_template: Jinja template (default: the tokenizer's, or that of ``prompt_template``).
        settings: fields of ``ProcessorSettings`` and ``ModelNumbers``, as in ``processor_config.json``.
    """

    valid_processor_kwargs = VideoLlamaProcessorKwargs  # type: ignore[assignment]

    def __init__(self, tokenizer: Any, chat_template: Any = None, **settings: Any) -> None:
        values = {name: plain(value) for name, value in settings.items()}
        unknown = sorted(values.keys() - names_of(ProcessorSettings) - names_of(ModelNumbers))
        if unknown:
            raise TypeError(f"Unexpected keyword argument {unknown[0]}.")
        super().__init__(tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self.settings = ProcessorSettings(**{k: v for k, v in values.items() if k in names_of(ProcessorSettings)})
        self.numbers = ModelNumbers(**{k: v for k, v in values.items() if k in names_of(ModelNumbers)})
        self.video_token, self.audio_token, self.image_token = VIDEO_PLACE, AUDIO_PLACE, VIDEO_PLACE
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_PLACE)
        self.audio_token_id = tokenizer.convert_tokens_to_ids(AUDIO_PLACE)
        self.image_token_id = self.video_token_id
        self.video_processor = FramesProcessor(self.settings, "pixel_values_videos")
        self.image_processor = FramesProcessor(self.settings, "pixel_values")
        self.feature_extractor = SoundProcessor(self.settings)
        if self.chat_template is None:
            self.chat_template = getattr(tokenizer, "chat_template", None) or template_of(self.numbers.prompt_template)

    def __getattr__(self, name: str) -> Any:
        """Return a value of ``processor_config.json``."""
        for part in ("settings", "numbers"):
            values = self.__dict__.get(part)
            if values is not None and name in values.__dataclass_fields__:
                value = getattr(values, name)
                return list(value) if isinstance(value, tuple) else value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # Loading and saving

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return ``processor_config.json``; numbers that it lacks (earlier folders) are those of ``config.json``."""
        values, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        config = Path(pretrained_model_name_or_path) / "config.json"
        missing = names_of(ModelNumbers) - values.keys()
        if missing and config.is_file():
            given = json.loads(config.read_text(encoding="utf-8"))
            values |= {name: given[name] for name in missing if name in given}
        return values, kwargs

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Return the tokenizer. That of an earlier folder, without tokenizer.json, is made from tokenizer.model."""
        folder = Path(pretrained_model_name_or_path)
        if (folder / "tokenizer.json").is_file() or not (folder / TOKENIZER_MODEL).is_file():
            return super()._get_arguments_from_pretrained(  # type: ignore[no-any-return, no-untyped-call]
                pretrained_model_name_or_path, processor_dict, **kwargs
            )
        return [tokenizer_of(folder / TOKENIZER_MODEL, (processor_dict or {}).get("pad_token"))]

    @staticmethod
    def validate_init_kwargs(processor_config: Any, valid_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the unused and the used values of ``processor_config.json``."""
        used = {*valid_kwargs, *names_of(ProcessorSettings), *names_of(ModelNumbers)}
        unused = {name: value for name, value in processor_config.items() if name not in used}
        return unused, {name: value for name, value in processor_config.items() if name in used}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``processor_config.json``."""
        values = asdict(self.settings) | asdict(self.numbers) | PROCESSOR_CLASS
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write the processor's files; ``tokenizer.model`` too, if the tokenizer was read from a folder with one."""
        saved = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        source = Path(getattr(self.tokenizer, "name_or_path", "") or "") / TOKENIZER_MODEL
        target = Path(save_directory) / TOKENIZER_MODEL
        if source.is_file() and not target.exists():
            target.write_bytes(source.read_bytes())
        return saved

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that a call with media of every kind returns."""
        return ["input_ids", "attention_mask", "pixel_values_videos", "input_features"]

    # Prompts with places

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize prompts and read their media.

        Args:
            images: images, as paths, bytes, Pillow images, arrays or tensors [H, W, 3] or [3, H, W].
            text: one prompt or several, with a place for each medium.
            videos: videos, as paths, bytes, lists of frames, arrays or tensors [T, H, W, 3] or [T, 3, H, W].
            audio: sounds, as paths, bytes, or waveforms [samples] or [channels, samples] at ``sampling_rate``.
            kwargs: options of the tokenizer (``padding``, ``return_tensors``, ...) and of the media: ``num_frames``,
                ``fps``, ``frames`` (a ``FrameSampling``), ``do_sample_frames``, ``video_metadata``,
                ``sampling_rate``, ``allow_urls``.

        Media are given in the order of their places, as a flat list or as a list for each prompt. Without media, places
        are left as they are.

        Raises:
            ValueError: the numbers of places and media differ, or invalid options.
            MediaError: a file cannot be used.
        """
        if text is None and images is None and videos is None and audio is None:
            raise ValueError("You need to provide at least one input: text, images, videos or audio.")
        merged = self._merge_kwargs(
            VideoLlamaProcessorKwargs,  # type: ignore[arg-type]
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            **kwargs,
        )
        options = ReadingOptions.of(merged)
        given = given_images(images), given_videos(videos), given_audio(audio)
        seen = {"image": [self._read_image(each, options) for each in given[0].items]}
        seen["video"] = [self._read_video(each, index, options) for index, each in enumerate(given[1].items)]
        mels = [self._read_sound(each, options).mel for each in given[2].items]
        text_kwargs = merged["text_kwargs"]
        features: dict[str, Any] = {}
        order = [(kind, index) for kind in ("image", "video") for index in range(len(seen[kind]))]
        if text is not None:
            flags = {
                name: _popped(merged, name) for name in ("return_mm_token_type_ids", "return_text_replacement_offsets")
            }
            texts, places, edits = self._placed(_texts(text), *given, seen["video"])
            features |= self._tokenized(texts, text_kwargs)
            rows = rows_of(features["input_ids"])
            self._check_places(texts, rows)
            if flags["return_text_replacement_offsets"]:
                features["text_replacement_offsets"] = [[edit.as_dict() for edit in row] for row in edits]
            if flags["return_mm_token_type_ids"]:
                features["mm_token_type_ids"] = self._type_ids(rows, edits, features["input_ids"])
            if given[0].items or given[1].items:
                order = [(p.modality, p.index) for row in places for p in row if p.modality != "audio"]
        features |= self._media_features(order, seen, mels, text_kwargs.get("return_tensors"))
        if kwargs.get("return_metadata"):
            features["video_metadata"] = [_metadata(each) for each in seen["video"]]
        return BatchFeature(features)

    def _placed(
        self, texts: list[str], images: GivenMedia, videos: GivenMedia, audio: GivenMedia, read: Sequence[SampledVideo]
    ) -> tuple[list[str], list[list[Place]], list[list[Replacement]]]:
        """Return the texts with expanded places, the places, and the replacements of each text."""
        if not (images.items or videos.items or audio.items):
            return texts, [[] for _ in texts], [[] for _ in texts]
        assigned = assign_media(texts, images, videos, audio)
        results, edits = [], []
        for text, places in zip(texts, assigned, strict=True):
            inserted = insert_sentences(text, places, lambda place: read[place.index].message)
            moved = [Place(shifted(p.start, inserted), shifted(p.end, inserted), p.modality, p.index) for p in places]
            new, row = expanded(with_insertions(text, inserted), moved, [self._replacement(p.modality) for p in moved])
            results.append(new)
            edits.append(row)
        return results, assigned, edits

    def _tokenized(self, texts: list[str], text_kwargs: dict[str, Any]) -> dict[str, Any]:
        bos = self.tokenizer.bos_token
        if bos and "add_special_tokens" not in text_kwargs and any(text.startswith(bos) for text in texts):
            if all(text.startswith(bos) for text in texts):
                text_kwargs["add_special_tokens"] = False
            else:
                texts = [text.removeprefix(bos) for text in texts]
        encoded: dict[str, Any] = dict(self.tokenizer(texts, **text_kwargs))
        return encoded

    def _check_places(self, texts: list[str], rows: list[list[int]]) -> None:
        """Raise ValueError if truncation removed places."""
        for token, token_id in ((VIDEO_PLACE, self.video_token_id), (AUDIO_PLACE, self.audio_token_id)):
            for text, row in zip(texts, rows, strict=True):
                if text.count(token) != row.count(token_id):
                    raise ValueError(
                        f"Mismatch in {token} token count: {text.count(token)} in the text, {row.count(token_id)} "
                        "after tokenization. Raise max_length, or disable truncation."
                    )

    def _type_ids(self, rows: list[list[int]], edits: list[list[Replacement]], like: Any) -> Any:
        token_ids = (self.video_token_id, self.audio_token_id)
        result = []
        for row, replaced in zip(rows, edits, strict=True):
            kinds = iter([TYPE_IDS[edit.modality] for edit in replaced for _ in range(edit.replacement.count("<"))])
            result.append([next(kinds, 0) if token in token_ids else 0 for token in row])
        return as_like(result, like)

    # Media

    def _read_image(self, source: Any, options: ReadingOptions) -> SampledVideo:
        size = self.video_processor.frame_size
        if isinstance(source, SampledVideo):
            return source
        source = resolve(source, allow_urls=options.allow_urls)
        return read_picture(source, size) if is_picture(source) else read_image(source, size=size)

    def _read_video(self, source: Any, index: int, options: ReadingOptions) -> SampledVideo:
        size, limit = self.video_processor.frame_size, self.numbers.max_frame_pos
        if isinstance(source, SampledVideo):
            return source
        metadata = options.metadata_of(index)
        if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], Mapping):
            source, metadata = source
        source = resolve(source, allow_urls=options.allow_urls)
        is_list = isinstance(source, (list, tuple))
        if is_picture(source):
            source, is_list = [source], True
        if is_clip(source) or (is_list and any(map(is_picture, source))):
            return read_frames(source, size, options.sampling_of_frames(self.settings), limit, metadata)
        if is_list:
            source = [resolve(each, allow_urls=options.allow_urls) for each in source]
        return read_video(source, size=size, sampling=options.sampling(self.settings), max_frames=limit)

    def _read_sound(self, source: Any, options: ReadingOptions) -> AudioClips:
        if isinstance(source, AudioClips):
            return source
        if isinstance(source, SoundClips):
            return self._audio().process(source)
        if is_waveform(source):
            waveform, rate = waveform_of(source, options.rate_of(self.settings))
            return self._audio()(waveform, rate)
        return self._audio().read(resolve(source, allow_urls=options.allow_urls))

    def _audio(self) -> AudioProcessor:
        return self.feature_extractor.processor

    def _media_features(
        self, order: list[tuple[Any, int]], seen: dict[str, list[SampledVideo]], mels: list[np.ndarray], tensors: Any
    ) -> dict[str, Any]:
        features: dict[str, Any] = {}
        frames = [self.video_processor.normalized(seen[kind][index].frames) for kind, index in order]
        if frames and all(kind == "image" for kind, _ in order):
            features["pixel_values"] = _batched([each[0] for each in frames], tensors)
        elif frames:
            features["pixel_values_videos"] = _batched(frames, tensors)
        if mels:
            features["input_features"] = _batched(mels, tensors)
        return features

    # What vLLM's backend for transformers' models calls

    def _replacement(self, modality: str) -> str:
        if modality == "audio":
            return self.replace_audio_token({}, 0)
        return self.replace_image_token({}, 0) if modality == "image" else self.replace_video_token({}, 0)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """Return the text that replaces the place of an image."""
        return VIDEO_PLACE * self.numbers.num_video_query_tokens

    def replace_video_token(self, video_inputs: dict[str, Any], video_idx: int, **kwargs: Any) -> str:
        """Return the text that replaces the place of a video."""
        return VIDEO_PLACE * self.numbers.num_video_query_tokens

    def replace_audio_token(self, audio_inputs: dict[str, Any], audio_idx: int, **kwargs: Any) -> str:
        """Return the text that replaces the place of a sound."""
        return AUDIO_PLACE * self.numbers.num_audio_query_tokens

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, audio_lengths: Any = None, **kwargs: Any
    ) -> dict[str, list[int]]:
        """Return the number of tokens of each medium, which does not depend on its size."""
        counts: dict[str, list[int]] = {}
        for name, sizes in (("image", image_sizes), ("video", video_sizes)):
            if sizes is not None:
                counts[f"num_{name}_tokens"] = [self.numbers.num_video_query_tokens] * len(sizes)
                counts[f"num_{name}_patches"] = [1] * len(sizes)
        if audio_lengths is not None:
            counts["num_audio_tokens"] = [self.numbers.num_audio_query_tokens] * len(audio_lengths)
        return counts


def _texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("`text` must be a string or list of strings.")
    return texts


def _popped(merged: dict[str, Any], name: str) -> bool:
    """Remove a flag from the arguments; transformers 5.16 has it among those of the text."""
    of_text = merged["text_kwargs"].pop(name, None)
    return bool(merged.get(name) if of_text is None else of_text)


def _metadata(video: SampledVideo) -> dict[str, Any]:
    return {
        "fps": video.fps,
        "frames_indices": video.indices,
        "total_num_frames": video.total_frames,
        "duration": video.duration,
    }


def _batched(media: list[np.ndarray], tensors: Any) -> Any:
    """Return one tensor if all media have the same length, else a list; the model accepts both."""
    is_numpy = str(getattr(tensors, "value", tensors)) == "np"
    if len({each.shape for each in media}) > 1:
        return media if is_numpy else [torch.from_numpy(each) for each in media]
    return np.stack(media) if is_numpy else torch.from_numpy(np.stack(media))
