"""The name of the key-value cache in transformers.

Forward passes, ``generate`` and model outputs call it ``past_key_values`` up to transformers 5.23, and ``cache`` from
5.24 on. Our classes take both names with every version, and use the name of the installed version when they call
transformers.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from transformers import GenerationMixin

CACHE = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else ("past_key_values")
)
"""Name of the argument and of the output field in the installed transformers."""


def one_cache(past_key_values: Any, cache: Any) -> Any:
    """Return the cache that was given under one of the two names, or None.

    Where transformers calls it ``cache``, the other name gives transformers' FutureWarning. Raises ValueError if both
    names have a value.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError("cache and past_key_values are two names of one argument. Give one of them.")
    if past_key_values is not None and CACHE == "cache":
        warnings.warn("`past_key_values` is deprecated. Use `cache`.", FutureWarning, stacklevel=3)
    return past_key_values if cache is None else cache
