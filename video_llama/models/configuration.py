"""The model's configuration. The defaults are those of Video-LLaMA-2 7B.

The ViT, the Q-Formers and the decoder use transformers' configuration classes (BLIP-2, LLaMA). ImageBind's two towers
use :class:`ImageBindTowerConfig`.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import Blip2QFormerConfig, Blip2VisionConfig, LlamaConfig, PretrainedConfig

from video_llama.models.configuration_limits import check_attention, check_values

FUSION_HEADER_TYPE = "seqTransf"
"""The paper's only fusion: sequential transformer layers over the frames' query tokens."""


FUSION_SHARES = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
"""Settings that the fusion Q-Formers share with the frame Q-Former. The reference builds all from one BERT config."""


class ImageBindTowerConfig(PretrainedConfig):
    """Configuration of one ImageBind tower: a pre-norm transformer over the patches of a frame or mel clip.

    Args:
        input_size: height and width of the input (in pixels; for a mel clip, mel bins and frames).
        num_channels: 3 for frames, 1 for mel clips.
        kernel_size: height and width of a patch.
        stride: step between patches. Patches overlap if it is smaller than ``kernel_size``.
        temporal_kernel: number of frames in a patch; a single frame is repeated to fill it. None for mel clips.
        stem_norm: whether a LayerNorm with ``stem_norm_eps`` follows the patch embedding (audio).
        pre_norm: whether a LayerNorm precedes the first block (vision).
        bias_kv: whether each attention layer has one additional learned key and value (audio).
        logit_scale: whether the normalised embedding is multiplied by a stored scale (audio; about 20).
        embedding_size: width of the shared embedding space.
    """

    model_type = "video_llama_imagebind_tower"

    def __init__(
        self,
        input_size: tuple[int, int] = (224, 224),
        num_channels: int = 3,
        kernel_size: tuple[int, int] = (14, 14),
        stride: tuple[int, int] = (14, 14),
        temporal_kernel: int | None = 2,
        hidden_size: int = 1280,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 16,
        mlp_ratio: float = 4.0,
        stem_norm: bool = False,
        stem_norm_eps: float = 1e-5,
        pre_norm: bool = True,
        bias_kv: bool = False,
        logit_scale: bool = False,
        layer_norm_eps: float = 1e-6,
        embedding_size: int = 1024,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.input_size = tuple(input_size)
        self.num_channels = num_channels
        self.kernel_size = tuple(kernel_size)
        self.stride = tuple(stride)
        self.temporal_kernel = temporal_kernel
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.mlp_ratio = mlp_ratio
        self.stem_norm = stem_norm
        self.stem_norm_eps = stem_norm_eps
        self.pre_norm = pre_norm
        self.bias_kv = bias_kv
        self.logit_scale = logit_scale
        self.layer_norm_eps = layer_norm_eps
        self.embedding_size = embedding_size
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP. Rounded, so that a ratio such as 30 / 11 gives the exact width."""
        return round(self.hidden_size * self.mlp_ratio)

    @property
    def num_patches(self) -> int:
        """Number of patches of an input."""
        sizes = zip(self.input_size, self.kernel_size, self.stride, strict=True)
        rows, columns = ((size - kernel) // stride + 1 for size, kernel, stride in sizes)
        return int(rows * columns)


class ImageBindVisionConfig(ImageBindTowerConfig):
    """The section ``imagebind_vision_config`` of a model's configuration."""

    base_config_key = "imagebind_vision_config"
    __init__ = ImageBindTowerConfig.__init__  # transformers would generate one without these arguments


class ImageBindAudioConfig(ImageBindTowerConfig):
    """The section ``imagebind_audio_config`` of a model's configuration."""

    base_config_key = "imagebind_audio_config"
    __init__ = ImageBindTowerConfig.__init__  # transformers would generate one without these arguments


class VideoQFormerConfig(Blip2QFormerConfig):
    """The section ``video_qformer_config`` of a model's configuration."""

    base_config_key = "video_qformer_config"


class AudioQFormerConfig(Blip2QFormerConfig):
    """The section ``audio_qformer_config`` of a model's configuration."""

    base_config_key = "audio_qformer_config"


def audio_tower_config(**overrides: Any) -> ImageBindAudioConfig:
    """Return the configuration of ImageBind-Huge's audio trunk.

    128 mel bins x 204 frames, 16x16 patches with stride 10, width 768, 12 blocks.
    """
    defaults: dict[str, Any] = dict(
        input_size=(128, 204),
        num_channels=1,
        kernel_size=(16, 16),
        stride=(10, 10),
        temporal_kernel=None,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        stem_norm=True,
        pre_norm=False,
        bias_kv=True,
        logit_scale=True,
    )
    config: ImageBindAudioConfig = ImageBindAudioConfig(**{**defaults, **overrides})
    return config


class VideoLlamaConfig(PretrainedConfig):
    """Configuration of the complete model.

    Args:
        vision_config: the EVA ViT. ``layer_norm_eps`` applies to its blocks, ``vision_post_norm_eps`` to its final
            norm.
        qformer_config: the frame Q-Former (cross-attention in every second layer).
        video_qformer_config, audio_qformer_config: the Q-Formers over frames and over audio clips (cross-attention in
            every layer).
        imagebind_vision_config, imagebind_audio_config: ImageBind's towers. The vision tower is required only to train
            the audio branch on frames.
        text_config: the LLaMA decoder.
        num_query_tokens: number of query tokens per frame.
        num_video_query_tokens, num_audio_query_tokens: number of decoder tokens per video and per audio track.
        max_frame_pos: maximum number of frames.
        max_audio_pos: maximum number of audio clips.
        fusion_header_type: only "seqTransf" is supported.
        fusion_head_layers: number of layers of the video Q-Former; overrides the default of ``video_qformer_config``.
        with_audio_branch: whether to build the audio branch.
        with_imagebind_vision: whether to build ImageBind's vision tower.
        video_token_id, audio_token_id: placeholder ids of media tokens. In folders written before they had tokens, they
            follow the last row of the embedding.
        prompt_template: name of the conversation template with which the decoder was trained; "chat_template" is the
            decoder's own.
        turn_format: the texts around messages of a decoder's own chat template (``conversation.TurnFormat``).

    Raises ValueError for another ``fusion_header_type`` and for contradicting numbers of fusion layers.
    """

    model_type = "video_llama"
    attribute_map = {"image_token_id": "video_token_id", "audio_config": "imagebind_audio_config"}
    sub_configs = {
        "vision_config": Blip2VisionConfig,
        "qformer_config": Blip2QFormerConfig,
        "video_qformer_config": VideoQFormerConfig,
        "audio_qformer_config": AudioQFormerConfig,
        "imagebind_vision_config": ImageBindVisionConfig,
        "imagebind_audio_config": ImageBindAudioConfig,
        "text_config": LlamaConfig,
    }

    def __init__(
        self,
        vision_config: dict[str, Any] | Blip2VisionConfig | None = None,
        qformer_config: dict[str, Any] | Blip2QFormerConfig | None = None,
        video_qformer_config: dict[str, Any] | Blip2QFormerConfig | None = None,
        audio_qformer_config: dict[str, Any] | Blip2QFormerConfig | None = None,
        imagebind_vision_config: dict[str, Any] | ImageBindTowerConfig | None = None,
        imagebind_audio_config: dict[str, Any] | ImageBindTowerConfig | None = None,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        vision_post_norm_eps: float = 1e-5,
        num_query_tokens: int = 32,
        num_video_query_tokens: int = 32,
        num_audio_query_tokens: int = 8,
        max_frame_pos: int = 32,
        max_audio_pos: int = 8,
        fusion_header_type: str = FUSION_HEADER_TYPE,
        fusion_head_layers: int | None = None,
        with_audio_branch: bool = True,
        with_imagebind_vision: bool = False,
        video_token_id: int = 32000,
        audio_token_id: int = 32001,
        prompt_template: str = "llama2",
        turn_format: dict[str, Any] | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if fusion_header_type != FUSION_HEADER_TYPE:
            raise ValueError(f"fusion_header_type is {fusion_header_type!r}; only {FUSION_HEADER_TYPE!r} is supported.")
        self.vision_config = _vision(vision_config, initializer_range)
        self.qformer_config = _typed(
            Blip2QFormerConfig, qformer_config, encoder_hidden_size=self.vision_config.hidden_size
        )
        self.imagebind_vision_config = _typed(ImageBindVisionConfig, imagebind_vision_config)
        if not isinstance(imagebind_audio_config, PretrainedConfig):
            shared = {"embedding_size": self.imagebind_vision_config.embedding_size}
            imagebind_audio_config = audio_tower_config(**{**shared, **(imagebind_audio_config or {})})
        self.imagebind_audio_config = imagebind_audio_config
        self.video_qformer_config = _fusion(
            VideoQFormerConfig,
            self.qformer_config,
            video_qformer_config,
            self.qformer_config.hidden_size,
            fusion_head_layers,
        )
        self.audio_qformer_config = _fusion(
            AudioQFormerConfig,
            self.qformer_config,
            audio_qformer_config,
            self.imagebind_audio_config.embedding_size,
            None,
        )
        self.text_config = _typed(LlamaConfig, text_config)
        self.vision_post_norm_eps = vision_post_norm_eps
        self.num_query_tokens = num_query_tokens
        self.num_video_query_tokens = num_video_query_tokens
        self.num_audio_query_tokens = num_audio_query_tokens
        self.max_frame_pos = max_frame_pos
        self.max_audio_pos = max_audio_pos
        self.fusion_header_type = fusion_header_type
        self.fusion_head_layers = self.video_qformer_config.num_hidden_layers
        self.with_audio_branch = with_audio_branch
        self.with_imagebind_vision = with_imagebind_vision
        self.video_token_id = video_token_id
        self.audio_token_id = audio_token_id
        self.prompt_template = prompt_template
        self.turn_format = turn_format
        self.initializer_range = initializer_range
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)
        self.check_attention()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, after ``check_values``, whose ValueError names a key that is out of range."""
        check_values(config_dict)
        return super().from_dict(config_dict, **kwargs)

    def check_attention(self) -> None:
        """Raise ValueError if a section requests an attention that could load code; see ``check_attention``."""
        for config in (self, *(getattr(self, name) for name in self.sub_configs)):
            check_attention(config._attn_implementation)

    @property
    def vocab_size(self) -> int:
        """The decoder's number of token ids, for libraries that read it here."""
        return int(self.text_config.vocab_size)

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.text_config.vocab_size = value

    @property
    def has_placeholder_rows(self) -> bool:
        """Whether the embedding and the head have rows for ``video_token_id`` and ``audio_token_id``."""
        return bool(max(self.video_token_id, self.audio_token_id) < self.text_config.vocab_size)

    def get_text_config(self, *args: Any, **kwargs: Any) -> LlamaConfig:
        """Return the decoder's configuration, which transformers' ``generate`` uses."""
        return self.text_config  # type: ignore[no-any-return]


def _typed(kind: type[Any], value: Any, **defaults: Any) -> Any:
    """Return ``value`` as a ``kind``. A dict is completed with ``defaults``; a configuration is returned unchanged."""
    if isinstance(value, PretrainedConfig):
        return value
    return kind(**{**defaults, **(value or {})})


def _vision(value: dict[str, Any] | Blip2VisionConfig | None, initializer_range: float) -> Blip2VisionConfig:
    """Return the ViT's configuration. The class default of ``initializer_range``, 1e-10, would give zero outputs."""
    config: Blip2VisionConfig = _typed(Blip2VisionConfig, value, initializer_range=initializer_range)
    if config.initializer_range == Blip2VisionConfig().initializer_range:
        config = copy.deepcopy(config)
        config.initializer_range = initializer_range
    return config


def _fusion(
    kind: type[Any], frame: Blip2QFormerConfig, value: Any, encoder_hidden_size: int, num_hidden_layers: int | None
) -> Blip2QFormerConfig:
    """Return the configuration of a fusion Q-Former: the frame Q-Former's settings, two layers with cross-attention."""
    defaults = {name: getattr(frame, name) for name in FUSION_SHARES}
    config: Blip2QFormerConfig = _typed(
        kind,
        value,
        **defaults,
        num_hidden_layers=num_hidden_layers or 2,
        cross_attention_frequency=1,
        encoder_hidden_size=encoder_hidden_size,
    )
    if num_hidden_layers is not None and config.num_hidden_layers != num_hidden_layers:
        raise ValueError(
            f"fusion_head_layers is {num_hidden_layers} and video_qformer_config.num_hidden_layers is "
            f"{config.num_hidden_layers}. Give only one of them, or equal values."
        )
    return config
