"""Values of a config.json that are refused, in bounded time, before any module is built or any code is loaded."""

import math
import time
from typing import Any

import pytest

from tests.factories.models import tiny_config
from video_llama.errors import CheckpointError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.configuration_limits import ATTENTION_IMPLEMENTATIONS, check_attention, check_values
from video_llama.models.placement import meta_model

SECTIONS = [section for section in VideoLlamaConfig.sub_configs if section != "imagebind_vision_config"]
KERNEL = "kernels-community/flash-attn"


def with_value(section: str | None, key: str, value: Any) -> dict[str, Any]:
    data = tiny_config(380).to_dict()
    (data if section is None else data[section])[key] = value
    return data


def test_ordinary_configurations_pass() -> None:
    check_values(tiny_config(380).to_dict())
    check_values(VideoLlamaConfig().to_dict())
    assert VideoLlamaConfig.from_dict(tiny_config(380).to_dict()).to_dict() == tiny_config(380).to_dict()


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("key", ["num_attention_heads", "hidden_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [0, -1, "8", math.nan, math.inf, 1.5, True, None, [8], {}, 10**30])
def test_sizes(section: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{section}\.{key} is .*, but it must be a whole number from 1 to"):
        VideoLlamaConfig.from_dict(with_value(section, key, value))


@pytest.mark.parametrize("section", SECTIONS)
def test_too_many_layers_are_refused_at_once(section: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match="is 200000, but it must be a whole number from 1 to 256"):
        VideoLlamaConfig.from_dict(with_value(section, "num_hidden_layers", 200_000))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("section", "key", "value", "rule"),
    [
        ("text_config", "rms_norm_eps", math.nan, "a positive number"),
        ("text_config", "rope_theta", "x", "a positive number"),
        ("text_config", "vocab_size", "x", "a whole number"),
        ("text_config", "hidden_act", "evil", "one of gelu"),
        ("text_config", "rope_parameters", {"rope_type": "evil"}, "one of default"),
        ("text_config", "rope_parameters", {"rope_type": "yarn", "factor": math.nan}, "a finite number"),
        ("text_config", "eos_token_id", "x", "a token id"),
        ("text_config", "attention_dropout", -1, "a number from 0 to 1"),
        ("text_config", "tie_word_embeddings", "x", "true or false"),
        ("vision_config", "patch_size", 0, "a whole number"),
        ("imagebind_audio_config", "kernel_size", [0, 0], "two positive whole numbers"),
        ("imagebind_audio_config", "input_size", [1], "two positive whole numbers"),
        ("imagebind_audio_config", "mlp_ratio", 0, "a positive number"),
        (None, "max_frame_pos", 0, "a whole number"),
        (None, "initializer_range", math.nan, "a finite number"),
        (None, "text_config", [], "a section with keys"),
        (None, "auto_map", {"AutoModel": "evil.Model"}, "absent"),
        (None, "quantization_config", {"quant_method": "evil"}, "absent"),
    ],
)
def test_other_values(section: str | None, key: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"must be {rule}") as caught:
        VideoLlamaConfig.from_dict(with_value(section, key, value))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("section", [None, *SECTIONS])
@pytest.mark.parametrize("name", [KERNEL, "flash_attention_2", "paged|sdpa", f"{KERNEL}@main:evil"])
def test_attention_that_loads_code_is_refused(section: str | None, key: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"attn_implementation=.* is not supported\. Use one of eager, sdpa"):
        VideoLlamaConfig.from_dict(with_value(section, key, name))


def test_attention_by_part_is_checked() -> None:
    for key in ("attn_implementation", "_attn_implementation"):
        with pytest.raises(ValueError, match="other names can load code"):
            VideoLlamaConfig.from_dict(with_value(None, key, {"text_config": KERNEL}))
    for name in (*ATTENTION_IMPLEMENTATIONS, None, {"text_config": "eager"}):
        check_attention(name)


def test_attention_that_is_set_later_is_checked_before_the_model_is_built() -> None:
    config = tiny_config(380)
    config.text_config._attn_implementation = KERNEL
    with pytest.raises(CheckpointError, match="other names can load code"):
        meta_model(config)
    with pytest.raises(ValueError, match="other names can load code"):
        meta_model(tiny_config(380)).set_attn_implementation(KERNEL)


def test_values_that_contradict_each_other_are_one_line() -> None:
    config = tiny_config(380, vision_config={"num_attention_heads": 7})
    with pytest.raises(CheckpointError, match=r"^x: the values do not make a model") as caught:
        meta_model(config, "x")
    assert "\n" not in str(caught.value)
