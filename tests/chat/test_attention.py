"""Where the queries look: shares that sum to 1, the model unchanged by looking, and each part there if its input is."""

import numpy as np
import pytest
import torch


@pytest.fixture
def heard_and_seen(assistant, clips):
    return assistant.read(clips["video"])


def test_shapes_and_sums(assistant, heard_and_seen):
    looked = assistant.attention(heard_and_seen)
    num_frames, num_clips = len(heard_and_seen.frames.seconds), len(heard_and_seen.sound.start_seconds)
    assert looked.frames_QT.shape == (assistant.config.num_video_query_tokens, num_frames)
    assert looked.clips_QS.shape == (assistant.config.num_audio_query_tokens, num_clips)
    for shares in (looked.frames_QT, looked.clips_QS):
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)  # float32 sums of softmax outputs


def test_only_what_is_there(assistant, clips):
    assert assistant.attention(assistant.read(clips["silent"])).clips_QS is None
    assert assistant.attention(assistant.read(clips["sound"])).frames_QT is None


def test_one_frame_has_all_the_attention(assistant, clips):
    looked = assistant.attention(assistant.read(clips["image"]))
    np.testing.assert_allclose(looked.frames_QT, 1, atol=1e-6)


def test_follows_the_attention_weights(assistant, heard_and_seen):
    """With keys of 0 every token is as likely as any other, so that every frame gets the same."""
    keys = [
        layer.crossattention.attention.key
        for layer in assistant._engine.model.model.video_qformer.qformer.encoder.layer
    ]
    before = [(key.weight.clone(), key.bias.clone()) for key in keys]
    unequal = assistant.attention(heard_and_seen).frames_QT
    try:
        with torch.no_grad():
            for key in keys:
                key.weight.zero_()
                key.bias.zero_()
        equal = assistant.attention(heard_and_seen).frames_QT
    finally:
        with torch.no_grad():
            for key, (weight, bias) in zip(keys, before, strict=True):
                key.weight.copy_(weight)
                key.bias.copy_(bias)
    np.testing.assert_allclose(equal, 1 / equal.shape[1], atol=1e-6)
    assert unequal.std() > 1e-4


def test_answers_stay_the_same(assistant, clips, heard_and_seen):
    before = assistant.chat(clips["video"]).ask("What do you see?", max_new_tokens=8)
    assistant.attention(heard_and_seen)
    after = assistant.chat(clips["video"]).ask("What do you see?", max_new_tokens=8)
    assert after.text == before.text
    body = assistant._engine.model.model
    implementations = {part.config._attn_implementation for part in (body.video_qformer.qformer, body.language_model)}
    assert implementations == {"sdpa"}
