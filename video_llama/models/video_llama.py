"""The complete model: media are encoded to query tokens, which replace the placeholder ids in the decoder's input.

Source: arXiv 2306.02858, section 2; the reference's models/video_llama.py. ``VideoLlamaModel`` is the model without
the vocabulary head; ``VideoLlamaForConditionalGeneration`` adds the head, the loss and ``generate``.
"""

# B batch, N media, T frames, S clips, K queries per frame, Q queries per medium, L prompt length, D decoder width,
# H Q-Former width, E ImageBind embedding width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    LlamaModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from video_llama.models.blip2 import FrameEncoder
from video_llama.models.cache_argument import CACHE, one_cache
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.configuration_limits import check_attention
from video_llama.models.generation import MediaGenerationMixin
from video_llama.models.imagebind import ImageBindTower
from video_llama.models.media_features import MediaFeatures
from video_llama.models.media_tokens import MediaTensors, num_tokens_of, place_tokens
from video_llama.models.qformer import SequenceQFormer

logger = logging.get_logger(__name__)


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
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _can_compile_fullgraph = True
    input_modalities = ("image", "video", "audio", "text")  # type: ignore[assignment]

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """Return the encoder of raw media: the ViT for "image" and "video", ImageBind's audio trunk for "audio".

        Raises ValueError for another modality, and for "audio" if the model has no audio branch.
        """
        body: Any = self.base_model
        if modality in ("image", "video"):
            return body.frame_encoder.vision_model  # type: ignore[no-any-return]
        if modality == "audio":
            return body._branch("imagebind_audio", "with_audio_branch")  # type: ignore[no-any-return]
        if modality is None:
            return self
        raise ValueError(f'modality is {modality!r}. Use "image", "video" or "audio".')

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


class VideoLlamaModel(MediaFeatures, VideoLlamaPreTrainedModel):
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

    # --- the decoder's input ---------------------------------------------------------------------------------------

    def places_of(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return where the placeholders of "video" and "audio" are in ``input_ids``: bool tensors of its shape."""
        return {"video": input_ids == self.config.video_token_id, "audio": input_ids == self.config.audio_token_id}

    def embed_words(self, input_ids: Tensor) -> Tensor:
        """Return the word embeddings [B, L, D]. Placeholder ids without a row in the embedding get that of id 0."""
        if not self.config.has_placeholder_rows:
            video, audio = self.places_of(input_ids).values()
            input_ids = input_ids.masked_fill(video | audio, 0)
        embeds: Tensor = self.get_input_embeddings()(input_ids)
        return embeds

    def embed_inputs(self, input_ids: Tensor, **media: Any) -> Tensor:
        """Return the word embeddings of ``input_ids`` [B, L] with media tokens at the placeholder ids: [B, L, D].

        ``media`` are the arguments of :meth:`media_tokens`. Raises ValueError if the number of placeholders differs
        from the number of media tokens.
        """
        embeds_BLD, places = self.embed_words(input_ids), self.places_of(input_ids)
        for name, tokens in self.media_tokens(**media).items():
            embeds_BLD = place_tokens(embeds_BLD, places[name], tokens, name)
        return embeds_BLD

    def place_in_embeds(self, inputs_embeds: Tensor, **media: Any) -> Tensor:
        """Put media tokens where ``inputs_embeds`` [B, L, D] equal the placeholders' word embeddings.

        Raises ValueError if media are given and the placeholders have no rows in the embedding.
        """
        given = sorted(name for name, value in media.items() if value is not None)
        if given and not self.config.has_placeholder_rows:
            raise ValueError(
                f"inputs_embeds already contain the media; {', '.join(given)} would be ignored. Give input_ids instead."
            )
        ids = {"video": self.config.video_token_id, "audio": self.config.audio_token_id}
        for name, tokens in self.media_tokens(**media).items():
            if num_tokens_of(tokens) > 0:
                row_D = self._word_embeddings[ids[name]].to(inputs_embeds)
                inputs_embeds = place_tokens(inputs_embeds, (inputs_embeds == row_D).all(dim=-1), tokens, name)
        return inputs_embeds

    def _may_lack_media(self, input_ids: Any, cache: Any) -> bool:
        if cache is not None:
            return True
        if self.config.has_placeholder_rows and not torch.compiler.is_compiling():
            video, audio = self.places_of(input_ids).values()
            if (video | audio).any():
                logger.warning_once("The prompt has media placeholders, but no media are given.")
        return bool(self.config.has_placeholder_rows)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: MediaTensors | None = None,
        input_features: MediaTensors | None = None,
        audio_pixel_values: MediaTensors | None = None,
        frame_tokens: MediaTensors | None = None,
        clip_embeddings: MediaTensors | None = None,
        video_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return the decoder's output with ``last_hidden_state`` [B, L, D].

        Args:
            input_ids: [B, L] with placeholder ids for media; or give ``inputs_embeds`` [B, L, D].
            pixel_values, pixel_values_videos, input_features, audio_pixel_values, frame_tokens, clip_embeddings,
                video_features, audio_features: see :meth:`media_tokens`.
            mm_token_type_ids: accepted for processors that return it, and not used.
            past_key_values, cache: the key-value cache. ``cache`` is its name from transformers 5.24 on.

        Raises ValueError if placeholders and media do not agree. Placeholders without any media are allowed with
        ``past_key_values``, so that any generated id can be continued, and, with a warning, if they have rows in the
        embedding, as in transformers' models.
        """
        cache = one_cache(past_key_values, cache)
        media = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "input_features": input_features,
            "audio_pixel_values": audio_pixel_values,
            "frame_tokens": frame_tokens,
            "clip_embeddings": clip_embeddings,
            "video_features": video_features,
            "audio_features": audio_features,
        }
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give input_ids or inputs_embeds, and not both.")
        if inputs_embeds is not None:
            inputs_embeds = self.place_in_embeds(inputs_embeds, **media)
        elif all(value is None for value in media.values()) and self._may_lack_media(input_ids, cache):
            inputs_embeds = self.embed_words(input_ids)  # type: ignore[arg-type]
        else:
            inputs_embeds = self.embed_inputs(input_ids, **media)  # type: ignore[arg-type]
        outputs: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        return outputs


class VideoLlamaForConditionalGeneration(VideoLlamaPreTrainedModel, MediaGenerationMixin):
    """:class:`VideoLlamaModel` with the vocabulary head, the training loss and ``generate``."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

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

    def get_video_features(self, pixel_values_videos: MediaTensors, **kwargs: Any) -> Any:
        """See :meth:`VideoLlamaModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """See :meth:`VideoLlamaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_audio_features(self, input_features: MediaTensors, **kwargs: Any) -> Any:
        """See :meth:`VideoLlamaModel.get_audio_features`."""
        return self.model.get_audio_features(input_features, **kwargs)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: MediaTensors | None = None,
        input_features: MediaTensors | None = None,
        audio_pixel_values: MediaTensors | None = None,
        frame_tokens: MediaTensors | None = None,
        clip_embeddings: MediaTensors | None = None,
        video_features: Tensor | None = None,
        audio_features: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits [B, L, vocabulary size] and, if ``labels`` [B, L] are given, the loss.

        The loss is the mean cross-entropy of the next token where the label is not -100. It is used for caption and
        instruction batches alike, which differ only in ids and labels. ``num_items_in_batch`` and ``shift_labels`` are
        those of transformers' ``loss_function``. The logits of placeholder ids, where they have rows, are the lowest
        number of their data type, so that placeholders are never generated; labels at placeholders are ignored.

        The other arguments are those of :meth:`VideoLlamaModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(past_key_values, cache),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            audio_pixel_values=audio_pixel_values,
            frame_tokens=frame_tokens,
            clip_embeddings=clip_embeddings,
            video_features=video_features,
            audio_features=audio_features,
            return_dict=True,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._without_placeholders(self.lm_head(outputs.last_hidden_state[:, keep]))
        loss = None
        if labels is not None:
            video, audio = self.model.places_of(labels).values()
            loss = self.loss_function(
                logits=logits,
                labels=labels.masked_fill(video | audio, -100),
                vocab_size=self.config.text_config.vocab_size,
                **kwargs,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE)},
        )

    def _without_placeholders(self, logits_BLV: Tensor) -> Tensor:
        """Set the logits of placeholder ids to the lowest number, in place."""
        if self.config.has_placeholder_rows:
            lowest = torch.finfo(logits_BLV.dtype).min
            logits_BLV[..., self.config.video_token_id] = lowest
            logits_BLV[..., self.config.audio_token_id] = lowest
        return logits_BLV


AutoConfig.register(VideoLlamaConfig.model_type, VideoLlamaConfig, exist_ok=True)
AutoModel.register(VideoLlamaConfig, VideoLlamaModel, exist_ok=True)
AutoModelForMultimodalLM.register(VideoLlamaConfig, VideoLlamaForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(VideoLlamaConfig, VideoLlamaForConditionalGeneration, exist_ok=True)
