from typing import Any

import pytest
import torch

from tests.models.conftest import VIDEO
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

Model = VideoLlamaForConditionalGeneration


def test_features_with_the_outputs_of_their_encoders(make: Any, frames: Any, mels: Any) -> None:
    model: Model = make()
    videos, sounds = torch.stack(frames(3, 3)), torch.stack(mels(2, 2))
    for each in (model, model.model):
        output = each.get_video_features(videos, output_hidden_states=True, unknown_option=1)
        torch.testing.assert_close(output.pooler_output, model.model.encode_video(videos))
        assert output.last_hidden_state.shape == (2, 3, 5, 20)
        assert len(output.hidden_states) == 3
        assert torch.equal(each.get_video_features(videos, return_dict=False)[1], output.pooler_output)
        heard = each.get_audio_features(sounds, output_attentions=True)
        torch.testing.assert_close(heard.pooler_output, model.model.encode_audio(sounds))
        assert heard.last_hidden_state.shape[:2] == (2, 2)
        assert heard.attentions[0].sum(dim=-1).allclose(torch.ones(()))
        seen = each.get_image_features(videos[:, 0])
        torch.testing.assert_close(seen.pooler_output, model.model.encode_video(videos[:, :1]))
        assert seen.last_hidden_state.shape == (2, 5, 20)
        assert each.get_encoder(modality="video") is model.model.frame_encoder.vision_model
        assert each.get_encoder(modality="audio") is model.model.imagebind_audio
        with pytest.raises(ValueError, match="modality is 'smell'"):
            each.get_encoder(modality="smell")
    lists = model.get_video_features(frames(3, 1))
    assert lists.last_hidden_state.shape == (4, 5, 20)
    torch.testing.assert_close(lists.pooler_output, model.model.encode_video(frames(3, 1)))


def test_images_are_videos_of_one_frame(make: Any, frames: Any) -> None:
    model: Model = make()
    ids = torch.tensor([[1, *[VIDEO] * 5, 8, 9]])
    image = frames(1)[0]
    expected = model(ids, pixel_values_videos=image[None]).logits
    assert torch.equal(model(ids, pixel_values=image).logits, expected)
    with pytest.raises(ValueError, match="in one form"):
        model(ids, pixel_values=image, pixel_values_videos=image[None])
