"""A medium that is encoded in steps has the tokens and warnings of one that is encoded at once."""

import time

import pytest
import torch

from video_llama.models import encoding_steps
from video_llama.models.encoding_steps import audio_steps, run_steps, timed, video_steps
from video_llama.models.familiarity import FeatureRecorder
from video_llama.processors.medium import MediaOptions


@pytest.fixture(params=[1.0, 1e15], ids=["one frame per step", "all frames"])
def step_products(request, monkeypatch):
    monkeypatch.setattr(encoding_steps, "STEP_PRODUCTS_CPU", request.param)
    return request.param


def count(steps):
    """Return the number of pauses and the result."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return pauses, end.value
        pauses += 1


@pytest.mark.parametrize("name", ["video", "silent", "sound", "image"])
def test_tokens_are_those_of_encode(assistant, clips, step_products, name):
    engine = assistant.engine
    whole = engine.encode(clips[name], MediaOptions())
    steps = run_steps(engine.encode_steps(whole.read))
    for found, expected in ((steps.video_tokens, whole.video_tokens), (steps.audio_tokens, whole.audio_tokens)):
        assert (found is None) == (expected is None)
        if expected is not None:
            assert not found.requires_grad
            torch.testing.assert_close(found, expected)
    assert steps.encode_seconds > 0


def test_number_of_steps(assistant, step_products):
    body = assistant.engine.model.model
    size, mel_size = body.config.vision_config.image_size, body.imagebind_audio.input_size
    frames, clips = torch.zeros(3, 3, size, size), torch.zeros(2, 1, *mel_size)
    is_small = step_products == 1.0
    encoder = body.frame_encoder
    blocks = len(encoder.vision_model.encoder.layers) + len(encoder.qformer.encoder.layer)
    assert count(video_steps(body, frames))[0] == (3 if is_small else 1) * (blocks + 1)
    assert count(audio_steps(body, clips))[0] == (2 if is_small else 1) * (len(body.imagebind_audio.blocks) + 1)


def test_gradients_stay_enabled_between_steps(assistant):
    body = assistant.engine.model.model
    size = body.config.vision_config.image_size
    steps = video_steps(body, torch.zeros(1, 3, size, size))
    next(steps)
    assert torch.is_grad_enabled()
    steps.close()


def test_offloaded_parts_are_encoded_as_a_whole(assistant, clips, monkeypatch):
    """accelerate's hooks belong to modules that the steps would not call."""
    body = assistant.engine.model.model
    whole = assistant.engine.encode(clips["video"], MediaOptions())
    frames, _ = assistant.engine.inputs(whole.read)
    monkeypatch.setattr(body.frame_encoder, "_hf_hook", object(), raising=False)
    pauses, tokens = count(video_steps(body, frames))
    assert pauses == 1
    torch.testing.assert_close(tokens, whole.video_tokens)


def test_recorded_features_are_those_of_all_frames(assistant, clips, step_products):
    body = assistant.engine.model.model
    whole = assistant.engine.encode(clips["video"], MediaOptions())
    frames, _ = assistant.engine.inputs(whole.read)
    with FeatureRecorder(body, [("frames", 0)]) as recorder:
        with recorder.recording() as expected, torch.no_grad():
            body.encode_video(frames[None])
        with recorder.recording() as found:
            run_steps(video_steps(body, frames))
    assert len(frames) > 1
    torch.testing.assert_close(found["frames", 0], expected["frames", 0])


def test_time_does_not_include_pauses():
    def steps():
        yield
        return "done"

    timing = timed(steps())
    next(timing)
    time.sleep(0.2)
    with pytest.raises(StopIteration) as end:
        next(timing)
    result, seconds = end.value.value
    assert result == "done"
    assert 0 < seconds < 0.1
