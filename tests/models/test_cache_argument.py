"""The two names of the key-value cache. tests/models/test_generation.py uses both."""

import pytest
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from video_llama.models.cache_argument import CACHE, one_cache


def test_the_installed_name_is_a_field_of_outputs():
    cache = DynamicCache()
    assert getattr(CausalLMOutputWithPast(**{CACHE: cache}), CACHE) is cache


def test_either_name_can_be_given():
    cache = DynamicCache()
    assert one_cache(None, None) is None
    assert one_cache(None, cache) is cache
    if CACHE == "cache":
        with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
            assert one_cache(cache, None) is cache
    else:
        assert one_cache(cache, None) is cache


def test_both_names():
    with pytest.raises(ValueError, match="Give one of them"):
        one_cache(DynamicCache(), DynamicCache())
