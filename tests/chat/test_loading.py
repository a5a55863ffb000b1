"""Loading by name: devices and data types."""

from __future__ import annotations

import pytest

import video_llama
from video_llama import FrameSampling
from video_llama.errors import MediaError


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


def test_interpolated_positions(model_path, assistant, clips):
    """More frames than positions are an error that names the option; with it, the record has a warning."""
    loaded = video_llama.load(model_path, device="cpu", interpolate_positions=True)
    twelve, few = FrameSampling(12), FrameSampling(8)
    with pytest.raises(ValueError, match=r"12 frames .* limit is 8 \(max_frame_pos\).*interpolate_positions"):
        assistant.chat(clips["video"], frames=twelve)
    with pytest.raises(MediaError, match=r"requires 30 frames, but the limit is 8 .*interpolate_positions"):
        assistant.chat(clips["video"], frames=FrameSampling(fps=10))
    answer = loaded.chat(clips["video"], frames=twelve).ask("What do you see?", max_new_tokens=4)
    assert len(answer.record.media[0]["frames"]["indices"]) == 12
    [warning] = answer.record.warnings
    assert warning == (
        "12 frames were read, and the model has 8 frame positions (max_frame_pos): the positions are interpolated, "
        "which is outside of training."
    )
    assert loaded.config.max_frame_pos == 8
    same = [each.chat(clips["video"], frames=few).ask("Why?", max_new_tokens=4) for each in (loaded, assistant)]
    assert same[0].text == same[1].text
    assert same[0].record.warnings == []
    with pytest.raises(ValueError, match="the limit is 128"):
        loaded.chat(clips["video"], frames=FrameSampling(129))
    batched = loaded.engine._encode_batch([loaded.read(clips["video"], frames=twelve)])
    assert batched[0].warnings == (warning,)
    timeline = loaded.timeline(clips["video"], "Why?", window=2, frames=twelve, max_new_tokens=4)
    assert timeline.windows[0].answer.record.warnings == [warning]
