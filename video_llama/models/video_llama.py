"""The complete model: media are encoded to query tokens, which replace the placeholder ids in the decoder's input.

Source: arXiv 2306.02858, section 2; the reference's models/video_llama.py. ``VideoLlamaModel`` is the model without
the vocabulary head; ``VideoLlamaForConditionalGeneration`` adds the head, the loss and ``generate``.
"""

# B batch, N media, T frames, S clips, K queries per frame, Q queries per medium, L prompt length, D decoder width,
# H Q-Former width, E ImageBind embedding width

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, GenerationConfig, GenerationMixin, LlamaModel, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from video_llama.models.blip2 import FrameEncoder
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.configuration_limits import check_attention
from video_llama.models.imagebind import ImageBindTower
from video_llama.models.qformer import SequenceQFormer
from video_llama.models.repetition_penalty import with_answer_penalty

MEDIA_ARGUMENTS = (
    "pixel_values_videos",
    "input_features",
    "audio_pixel_values",
    "frame_tokens",
    "clip_embeddings",
    "video_features",
    "audio_features",
)
"""The media arguments of :meth:`VideoLlamaModel.embed_inputs`."""

MediaTensors = Tensor | Sequence[Tensor]
"""N media: a tensor [N, T, ...] if they have the same length, or a list of N tensors [T, ...]."""


class VideoLlamaPreTrainedModel(PreTrainedModel):
    """Base class with the settings that transformers requires of both classes below."""

    config_class = VideoLlamaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["LlamaDecoderLayer", "Blip2EncoderLayer", "Blip2QFormerLayer", "ImageBindBlock"]
    _skip_keys_device_placement = ["past_key_values"]

    def _check_and_adjust_attn_implementation(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which calls this before it downloads a kernel; ValueError for a name of one."""
        check_attention(args[0] if args else kwargs.get("attn_implementation"))
        self.config.check_attention()
        return super()._check_and_adjust_attn_implementation(*args, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """The decoder's dtype, which is saved as the model's dtype. Other parts may have a different dtype."""
        return self._word_embeddings.dtype

    @property
    def device(self) -> torch.device:
        """The device for inputs: that of the word embeddings, or their execution device if they are offloaded."""
        if self._word_embeddings.is_meta and hasattr(self.get_input_embeddings(), "_hf_hook"):
            return torch.device(self.get_input_embeddings()._hf_hook.execution_device)  # type: ignore[union-attr, arg-type]
        return self._word_embeddings.device

    @property
    def _word_embeddings(self) -> Tensor:
        weight: Tensor = self.get_input_embeddings().weight  # type: ignore[assignment]
        return weight

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, FrameEncoder | SequenceQFormer):
            nn.init.normal_(module.query_tokens, std=std)
        elif isinstance(module, ImageBindTower):
            module.reset_parameters(std)


class VideoLlamaModel(VideoLlamaPreTrainedModel):
    """Frame encoder, ImageBind towers, the two sequence Q-Formers, and the decoder without its head.

    Parts that are frozen in training stay in evaluation mode; see :meth:`train`.
    """

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.frame_encoder = FrameEncoder(config)
        self.video_qformer = SequenceQFormer(
            config.video_qformer_config, config.num_video_query_tokens, config.max_frame_pos, width
        )
        if config.with_audio_branch:
            self.imagebind_audio = ImageBindTower(config.imagebind_audio_config)
            self.audio_qformer = SequenceQFormer(
                config.audio_qformer_config, config.num_audio_query_tokens, config.max_audio_pos, width
            )
        if config.with_imagebind_vision:
            self.imagebind_vision = ImageBindTower(config.imagebind_vision_config)
        self.language_model = LlamaModel(config.text_config)
        self.post_init()

    def train(self, mode: bool = True) -> VideoLlamaModel:
        """Set training mode. Children without trainable parameters stay in evaluation mode, without dropout."""
        super().train(mode)
        for child in self.children():
            if not any(parameter.requires_grad for parameter in child.parameters()):
                child.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    # --- media to tokens -------------------------------------------------------------------------------------------

    def encode_frames(self, pixel_values_videos: Tensor) -> Tensor:
        """Encode normalised pixels [N, T, 3, height, width] to the query tokens of each frame [N, T, K, H]."""
        return _each_medium(pixel_values_videos, self.frame_encoder)

    def encode_clips(self, input_features: Tensor) -> Tensor:
        """Encode mel clips [N, S, 1, mel bins, frames] to ImageBind embeddings [N, S, E] of norm about 20."""
        tower = self._branch("imagebind_audio", "with_audio_branch")
        return _each_medium(input_features, lambda clips: tower(clips).embedding_NE)

    def encode_frames_as_clips(self, audio_pixel_values: Tensor) -> Tensor:
        """Encode frames [N, S, 3, height, width] to ImageBind embeddings [N, S, E] of norm 1, for audio training."""
        tower = self._branch("imagebind_vision", "with_imagebind_vision")
        return _each_medium(audio_pixel_values, lambda frames: tower(frames).embedding_NE)

    def get_video_features(self, pixel_values_videos: MediaTensors) -> Tensor:
        """Encode normalised pixels [N, T, 3, height, width], or a list of N tensors, to decoder tokens [N, Q, D].

        An image is a video with T = 1.
        """
        return encode_by_length(pixel_values_videos, lambda pixels: self.video_qformer(self.encode_frames(pixels)))

    def get_audio_features(self, input_features: MediaTensors) -> Tensor:
        """Encode mel clips [N, S, 1, mel bins, frames], or a list of N tensors, to decoder tokens [N, Q, D]."""
        return encode_by_length(input_features, lambda mel: self.fuse_clips(self.encode_clips(mel)))

    def get_audio_features_from_frames(self, audio_pixel_values: MediaTensors) -> Tensor:
        """Encode frames [N, S, 3, height, width] with ImageBind's vision tower and the audio Q-Former to [N, Q, D]."""
        return encode_by_length(audio_pixel_values, lambda pixels: self.fuse_clips(self.encode_frames_as_clips(pixels)))

    def fuse_clips(self, clip_embeddings: Tensor) -> Tensor:
        """Encode ImageBind embeddings [N, S, E] to decoder tokens [N, Q, D]."""
        return self._branch("audio_qformer", "with_audio_branch")(clip_embeddings[:, :, None])  # type: ignore[no-any-return]

    def get_audiovisual_features(self, pixel_values_videos: Tensor, input_features: Tensor) -> Tensor:
        """Encode frames [N, T, 3, height, width] and clips [N, S, 1, mel bins, frames] jointly to [N, Q, D].

        The video queries attend to the frames' query tokens and the clips' class tokens before ImageBind's final
        projection. Raises ValueError unless the audio trunk and the Q-Former have the same width (768 in the published
        model).
        """
        audio_width, width = self.config.imagebind_audio_config.hidden_size, self.config.qformer_config.hidden_size
        if audio_width != width:
            raise ValueError(
                f"The joint path requires equal widths; the audio trunk has {audio_width}, the Q-Former {width}."
            )
        trunk = self._branch("imagebind_audio", "with_audio_branch")
        clips = trunk(input_features.flatten(0, 1)).hidden_ND.unflatten(0, input_features.shape[:2])
        return self.video_qformer(self.encode_frames(pixel_values_videos), clips[:, :, None])  # type: ignore[no-any-return]

    def _branch(self, name: str, flag: str) -> nn.Module:
        if not hasattr(self, name):
            raise ValueError(
                f"This model was built without {name}. Set {flag}=True in its config and load its weights."
            )
        return getattr(self, name)  # type: ignore[no-any-return]

    # --- the decoder's input ---------------------------------------------------------------------------------------

    def embed_inputs(
        self,
        input_ids: Tensor,
        pixel_values_videos: MediaTensors | None = None,
        input_features: MediaTensors | None = None,
        audio_pixel_values: MediaTensors | None = None,
        frame_tokens: MediaTensors | None = None,
        clip_embeddings: MediaTensors | None = None,
        video_features: Tensor | None = None,
        audio_features: Tensor | None = None,
    ) -> Tensor:
        """Return the word embeddings of ``input_ids`` [B, L] with media tokens at the placeholder ids: [B, L, D].

        Give the media of a modality in one form, in the order of their placeholders:

        - raw: ``pixel_values_videos``, ``input_features``, or ``audio_pixel_values`` (frames for the audio branch);
        - features of the frozen encoders: ``frame_tokens`` [N, T, K, H], ``clip_embeddings`` [N, S, E];
        - decoder tokens: ``video_features``, ``audio_features`` [N, Q, D].

        Raises ValueError if the number of placeholders differs from the number of media tokens.
        """
        video = _only_one(
            video_features, (self.get_video_features, pixel_values_videos), (self._fuse_frames, frame_tokens)
        )
        audio = _only_one(
            audio_features,
            (self.get_audio_features, input_features),
            (self.get_audio_features_from_frames, audio_pixel_values),
            (self._fuse_all_clips, clip_embeddings),
        )
        is_video, is_audio = input_ids == self.config.video_token_id, input_ids == self.config.audio_token_id
        embeds = self.get_input_embeddings()(input_ids.masked_fill(is_video | is_audio, 0))
        embeds = _place(embeds, is_video, video, "video")
        return _place(embeds, is_audio, audio, "audio")

    def _fuse_frames(self, frame_tokens: MediaTensors) -> Tensor:
        return encode_by_length(frame_tokens, self.video_qformer)

    def _fuse_all_clips(self, clip_embeddings: MediaTensors) -> Tensor:
        return encode_by_length(clip_embeddings, self.fuse_clips)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the decoder's output with ``last_hidden_state`` [B, L, D], for ``input_ids`` [B, L] with media (see
        :meth:`embed_inputs`) or ``inputs_embeds`` [B, L, D]."""
        media = {name: kwargs.pop(name) for name in MEDIA_ARGUMENTS if name in kwargs}
        if inputs_embeds is not None:
            _refuse_media(media)
        elif input_ids is None:
            raise ValueError("Give input_ids or inputs_embeds.")
        else:
            inputs_embeds = self.embed_inputs(input_ids, **media)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


class VideoLlamaForConditionalGeneration(VideoLlamaPreTrainedModel, GenerationMixin):
    """:class:`VideoLlamaModel` with the vocabulary head, the training loss and ``generate``."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__(config)
        self.model = VideoLlamaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits [B, L, vocabulary size] and, if ``labels`` [B, L] are given, the loss.

        The loss is the mean cross-entropy of the next token where the label is not -100. It is used for caption and
        instruction batches alike, which differ only in ids and labels.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            wide = torch.promote_types(logits.dtype, torch.float32)
            flat = logits[:, :-1].to(wide).flatten(0, 1)
            loss = nn.functional.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate ids as in transformers (greedy, sampling, beams, streamers), with the media of ``embed_inputs``.

        Media are encoded once, before generation, so a row may contain any number of them and beams share them. With
        ``input_ids`` [B, L] the result contains prompt and answer ids [B, L + new], as in transformers; pad batches on
        the left. ``repetition_penalty`` applies to BOS and the answer's tokens only (``repetition_penalty.py``).
        ``inputs`` is an alias of ``input_ids``.
        """
        input_ids = inputs if input_ids is None else input_ids
        media = {name: kwargs.pop(name) for name in MEDIA_ARGUMENTS if name in kwargs}
        if kwargs.get("inputs_embeds") is not None:
            _refuse_media(media)
        elif input_ids is not None:
            kwargs["inputs_embeds"] = self.model.embed_inputs(input_ids, **media)
        if input_ids is not None:
            kwargs["input_ids"] = input_ids
        prompt_length = 0 if input_ids is None else input_ids.shape[1]
        bos_token_id = self.config.text_config.bos_token_id
        settings = generation_config or self.generation_config
        kwargs = with_answer_penalty(kwargs, settings, prompt_length, bos_token_id)
        return super().generate(None, generation_config, *args, **kwargs)  # type: ignore[misc]


def _each_medium(media_NT: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``encode``, which maps [T, ...] to [T, ...], to media [N, T, ...] and return [N, T, ...].

    On a CPU the media are encoded one at a time, because the last bits of a matrix product may depend on its number of
    rows. The features of a medium then do not depend on the batch, and cached features equal recomputed ones.
    """
    if media_NT.device.type == "cpu":
        return torch.stack([encode(medium) for medium in media_NT])
    return encode(media_NT.flatten(0, 1)).unflatten(0, media_NT.shape[:2])  # type: ignore[no-any-return]


def encode_by_length(media: MediaTensors, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``encode`` ([N, T, ...] -> [N, Q, D]) to media of different lengths; return [N, Q, D] in the given order.

    Media of equal length are encoded in one batch.
    """
    if isinstance(media, Tensor):
        return encode(media)
    groups: dict[int, list[int]] = {}
    for index, medium in enumerate(media):
        groups.setdefault(len(medium), []).append(index)
    encoded: dict[int, Tensor] = {}
    for indices in groups.values():
        batch = encode(torch.stack([media[index] for index in indices]))
        encoded.update(zip(indices, batch, strict=True))
    return torch.stack([encoded[index] for index in range(len(media))])


def _only_one(
    ready: Tensor | None, *forms: tuple[Callable[[MediaTensors], Tensor], MediaTensors | None]
) -> Tensor | None:
    """Return the decoder tokens of a modality [N, Q, D], or None without media. Raises ValueError for several forms."""
    given = [(encode, medium) for encode, medium in forms if medium is not None and len(medium) > 0]
    if len(given) + (ready is not None) > 1:
        raise ValueError("Give the media of a modality in one form: raw, as frozen features, or as decoder tokens.")
    if given:
        encode, medium = given[0]
        return encode(medium)
    return ready


def _refuse_media(media: dict[str, Any]) -> None:
    given = sorted(name for name, value in media.items() if value is not None)
    if given:
        raise ValueError(
            f"inputs_embeds already contain the media; {', '.join(given)} would be ignored. Give input_ids instead."
        )


def _place(embeds_BLD: Tensor, places_BL: Tensor, features_NQD: Tensor | None, modality: str) -> Tensor:
    """Write the media tokens [N, Q, D] to ``embeds_BLD`` where ``places_BL`` is true, in row-major order."""
    num_places = int(places_BL.sum())
    num_tokens = 0 if features_NQD is None else features_NQD.shape[0] * features_NQD.shape[1]
    if num_places != num_tokens:
        raise ValueError(
            f"The prompt has {num_places} {modality} placeholders, but the media given have {num_tokens} tokens."
        )
    if features_NQD is None or num_tokens == 0:
        return embeds_BLD
    tokens = features_NQD.flatten(0, 1).to(embeds_BLD)  # same dtype and, for a model on several devices, same device
    return embeds_BLD.masked_scatter(places_BL[..., None].to(embeds_BLD.device), tokens)


AutoConfig.register(VideoLlamaConfig.model_type, VideoLlamaConfig, exist_ok=True)
AutoModel.register(VideoLlamaConfig, VideoLlamaForConditionalGeneration, exist_ok=True)
