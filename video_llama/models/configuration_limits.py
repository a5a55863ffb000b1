"""Limits of the values in a ``config.json``, checked before any module is built.

A configuration is untrusted. An invalid value (text instead of a number, zero layers, 200,000 layers) raises one short
error in bounded time and memory, and no value can load code. The rules apply to keys of these names in every section.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")
"""Transformers downloads and runs code for names of kernels on the Hub, so only these are allowed."""
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
MAX_LAYERS = 256
MAX_SIZE = 10_000_000
"""Largest width, vocabulary, context, or number of tokens."""

_LAYERS = {"num_hidden_layers", "fusion_head_layers"}
_SIZES = {
    *("hidden_size", "intermediate_size", "encoder_hidden_size", "embedding_size", "head_dim", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "cross_attention_frequency", "num_channels", "temporal_kernel"),
    *("image_size", "patch_size", "max_position_embeddings", "max_frame_pos", "max_audio_pos"),
    *("num_query_tokens", "num_video_query_tokens", "num_audio_query_tokens"),
}
_PAIRS = {"input_size", "kernel_size", "stride"}
_POSITIVE = {"mlp_ratio", "rope_theta", "rms_norm_eps", "layer_norm_eps", "vision_post_norm_eps", "stem_norm_eps"}
_SHARES = {"attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"}
_BOOLS = {
    *("stem_norm", "pre_norm", "bias_kv", "logit_scale", "with_audio_branch", "with_imagebind_vision", "qkv_bias"),
    *("tie_word_embeddings", "use_cache", "attention_bias", "mlp_bias"),
}
_MAY_BE_NONE = {"head_dim", "num_key_value_heads", "temporal_kernel", "fusion_head_layers"}
_ATTENTION_KEYS = {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}
_CODE_KEYS = {"auto_map", "custom_pipelines", "quantization_config"}

BAD_VALUES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,
)
"""Exceptions that transformers and torch raise for invalid values that no rule of this module covers."""


def check_values(data: Mapping[str, Any]) -> None:
    """Raise ValueError for the first value of a configuration that is out of range; the message names its key."""
    for path, key, value in _entries(data, ()):
        problem = _problem(key, value)
        if problem:
            raise ValueError(f"{'.'.join(path)} is {repr(value)[:80]}, but it must be {problem}.")


def check_attention(name: Any) -> None:
    """Raise ValueError unless ``name`` is None or one of ATTENTION_IMPLEMENTATIONS (or a mapping of parts to these)."""
    for each in name.values() if isinstance(name, Mapping) else (name,):
        if each is not None and each not in ATTENTION_IMPLEMENTATIONS:
            raise ValueError(
                f'Specified `attn_implementation="{str(each)[:80]}"` is not supported. Use one of '
                f"{', '.join(ATTENTION_IMPLEMENTATIONS)}; other names can load code."
            )


def first_line(error: Exception) -> str:
    """Return the text of an error as one short line."""
    text = " ".join(str(error).split("Exception raised from")[0].split())
    return (text[:300] + "..." if len(text) > 300 else text) or type(error).__name__


def _entries(data: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    for key, value in data.items():
        yield (*path, str(key)), str(key), value
        if isinstance(value, Mapping) and key not in _ATTENTION_KEYS:
            yield from _entries(value, (*path, str(key)))


def _problem(key: str, value: Any) -> str | None:
    """Return the rule that a value breaks, or None."""
    if key in _ATTENTION_KEYS:
        check_attention(value)
    if key in _CODE_KEYS and value:
        return "absent: custom code and other number formats are not supported in a model folder"
    if value is None and key in _MAY_BE_NONE:
        return None
    if key.endswith("_config") and not isinstance(value, Mapping | None):
        return "a section with keys"
    if key in _LAYERS and not _is_int(value, 1, MAX_LAYERS):
        return f"a whole number from 1 to {MAX_LAYERS}"
    if key in _SIZES and not _is_int(value, 1, MAX_SIZE):
        return f"a whole number from 1 to {MAX_SIZE:,}"
    if key in _PAIRS and not _is_pair(value):
        return "two positive whole numbers"
    if key.endswith("_token_id") and not _are_ids(value):
        return "a token id"
    return _scalar_problem(key, value)


def _scalar_problem(key: str, value: Any) -> str | None:
    if key in _POSITIVE and not (_is_number(value) and value > 0):
        return "a positive number"
    if key in _SHARES and not (_is_number(value) and 0 <= value <= 1):
        return "a number from 0 to 1"
    if key in _BOOLS and not isinstance(value, bool):
        return "true or false"
    if key in ("hidden_act", "rope_type") and value not in (known := ACTIVATIONS if key[0] == "h" else ROPE_TYPES):
        return f"one of {', '.join(known)}"
    if key in ("rope_parameters", "rope_scaling") and not isinstance(value, Mapping | None):
        return "a section with keys"
    if isinstance(value, int | float) and not _is_number(value):
        return "a finite number"
    if isinstance(value, list | tuple) and not all(map(_is_number, (v for v in value if isinstance(v, int | float)))):
        return "a list of finite numbers"
    return None


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number of moderate size; bool is accepted."""
    return isinstance(value, int | float) and -1e15 < value < 1e15 and math.isfinite(value)


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_int(each, 1, MAX_SIZE) for each in value)


def _are_ids(value: Any) -> bool:
    """Return whether a value is None, an id, or a list of ids; old LLaMA configurations have pad_token_id -1."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return all(_is_int(each, -1, MAX_SIZE) for each in ids)
