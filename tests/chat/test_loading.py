"""Loading by name: devices and data types."""

from __future__ import annotations

import pytest

import video_llama


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'. Choose float32, bfloat16, float16"),
        ({"device": "abacus"}, "device 'abacus' is not available"),
    ],
)
def test_bad_place(model_path, options, message):
    with pytest.raises(ValueError, match=message):
        video_llama.load(model_path, **options)


def test_dtype_by_name(model_path, clips):
    import torch

    assistant = video_llama.load(model_path, device="cpu", dtype="bfloat16")
    dtypes = {name: parameter.dtype for name, parameter in assistant._engine.model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "language_model" in name} == {torch.bfloat16}
    # The Q-Formers compute in float32 beside a decoder in half precision, as the reference's do.
    assert {dtype for name, dtype in dtypes.items() if ".qformer." in name} == {torch.float32}
    assert assistant.chat(clips["video"]).ask("What do you see?", max_new_tokens=4).record.tokens["generated"] > 0
