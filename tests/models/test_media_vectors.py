"""Vectors of frames, videos and sounds: shapes, batches, norm."""

import pytest
import torch

from tests.factories.models import tiny_config
from video_llama.models.media_vectors import frame_vectors, sound_vectors
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


@pytest.fixture(scope="module")
def body():
    return VideoLlamaForConditionalGeneration(tiny_config(64)).eval().model


def test_frames_and_video(body):
    size = body.config.vision_config.image_size
    videos = torch.randn(2, 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    first, second = frame_vectors(body, videos)
    [alone] = frame_vectors(body, videos[1:])
    width = body.config.qformer_config.hidden_size
    assert (first.frames_TH.shape, first.clip_H.shape) == ((3, width), (width,))
    torch.testing.assert_close(second.frames_TH, alone.frames_TH, rtol=0, atol=0)
    torch.testing.assert_close(second.clip_H, alone.clip_H, rtol=0, atol=0)
    assert not torch.allclose(first.clip_H, second.clip_H)


def test_the_projection_of_the_mean_is_the_mean_of_the_decoder_tokens(body):
    """The clip vector is the mean of what the projection maps to decoder tokens, and the projection is affine."""
    size = body.config.vision_config.image_size
    video = torch.randn(1, 2, 3, size, size, generator=torch.Generator().manual_seed(1))
    [vectors] = frame_vectors(body, video)
    with torch.no_grad():
        projected = body.video_qformer.language_projection(vectors.clip_H)
        tokens = body.encode_video(video)
    torch.testing.assert_close(projected, tokens[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_sounds_have_norm_1_and_the_direction_of_imagebind(body):
    audio = body.config.imagebind_audio_config
    mel = torch.randn(2, 3, 1, *audio.input_size, generator=torch.Generator().manual_seed(2))
    vectors = sound_vectors(body, mel)
    with torch.no_grad():
        embeddings = body.encode_clips(mel)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(vectors * embeddings.norm(dim=-1, keepdim=True), embeddings)
