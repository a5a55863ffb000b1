from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from tests.models.conftest import AUDIO, VIDEO
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.media_tokens import encode_by_length
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration, VideoLlamaModel

Model = VideoLlamaForConditionalGeneration
ROUNDING = 1e-5  # float32 sums in another order, for values of about 1


def prompt(*parts: int | list[int]) -> Tensor:
    """Return ids [1, L]. VIDEO is expanded to 5 placeholder ids and AUDIO to 2."""
    lengths = {VIDEO: 5, AUDIO: 2}
    ids: list[int] = []
    for part in parts:
        ids += part if isinstance(part, list) else [part] * lengths[part]
    return torch.tensor([ids])


def test_media_tokens_replace_the_placeholders(model: Model, frames: Any, mels: Any) -> None:
    ids = prompt([1, 7], AUDIO, [8], VIDEO, [9])
    embeds = model.model.embed_inputs(ids, pixel_values_videos=frames(3), input_features=mels(4))
    table = model.get_input_embeddings().weight
    assert embeds.shape == (1, 11, 32)
    torch.testing.assert_close(embeds[0, [0, 1, 4, 10]], table[[1, 7, 8, 9]], rtol=0, atol=0)
    torch.testing.assert_close(embeds[0, 2:4], model.model.encode_audio(mels(4))[0])
    torch.testing.assert_close(embeds[0, 5:10], model.model.encode_video(frames(3))[0])


def test_any_number_of_media_in_one_row_in_any_order(model: Model, frames: Any, mels: Any) -> None:
    ids = prompt([1], VIDEO, VIDEO, [5], AUDIO, [6], VIDEO, AUDIO, AUDIO, [7])
    videos, sounds = frames(2, 6, 1), mels(1, 4, 2)
    embeds = model.model.embed_inputs(ids, pixel_values_videos=videos, input_features=sounds)
    for index, start in enumerate((1, 6, 15)):
        alone = model.model.encode_video(videos[index][None])[0]
        torch.testing.assert_close(embeds[0, start : start + 5], alone, rtol=0, atol=ROUNDING)
    for index, start in enumerate((12, 20, 22)):
        alone = model.model.encode_audio(sounds[index][None])[0]
        torch.testing.assert_close(embeds[0, start : start + 2], alone, rtol=0, atol=ROUNDING)


def test_frozen_features_and_raw_media_give_equal_results(model: Model, frames: Any, mels: Any) -> None:
    ids = prompt([1], VIDEO, AUDIO, [4])
    videos, sounds = torch.stack(frames(3)), torch.stack(mels(2))
    raw = model(ids, pixel_values_videos=videos, input_features=sounds).logits
    body = model.model
    stored = {"frame_tokens": body.encode_frames(videos), "clip_embeddings": body.encode_clips(sounds)}
    torch.testing.assert_close(model(ids, **stored).logits, raw, rtol=0, atol=ROUNDING)
    ready = {"video_features": body.encode_video(videos), "audio_features": body.encode_audio(sounds)}
    torch.testing.assert_close(model(ids, **ready).logits, raw, rtol=0, atol=ROUNDING)


def test_the_audio_branch_encodes_frames(model: Model, frames: Any) -> None:
    ids = prompt([1], AUDIO, [4])
    clips = torch.stack(frames(4))
    features = model.model.fuse_clips(model.model.encode_frames_as_clips(clips))
    with_frames = model(ids, audio_pixel_values=clips).logits
    torch.testing.assert_close(with_frames, model(ids, audio_features=features).logits, rtol=0, atol=ROUNDING)


def test_media_of_different_lengths_keep_their_order(model: Model, frames: Any) -> None:
    videos = frames(2, 1, 2, 5)
    together = model.model.encode_video(videos)
    alone = torch.cat([model.model.encode_video(video[None]) for video in videos])
    torch.testing.assert_close(together, alone, rtol=0, atol=ROUNDING)
    assert torch.equal(encode_by_length([torch.ones(1), torch.zeros(2)], lambda x: x.sum(1)), torch.tensor([1.0, 0.0]))


def test_the_joint_path_encodes_frames_and_clips(model: Model, frames: Any, mels: Any) -> None:
    videos, sounds = torch.stack(frames(3, 3)), torch.stack(mels(3, 3))
    joint = model.model.get_audiovisual_features(videos, sounds)
    assert joint.shape == (2, 5, 32)
    assert (joint - model.model.get_audiovisual_features(videos, sounds.flip(0))).abs().max() > 1e-3
    assert (joint - model.model.get_audiovisual_features(videos.flip(0), sounds)).abs().max() > 1e-3


def test_the_joint_path_requires_equal_widths(make: Any, frames: Any, mels: Any) -> None:
    narrow = make(imagebind_audio_config=make().config.imagebind_vision_config)
    with pytest.raises(ValueError, match="requires equal widths; the audio trunk has 16, the Q-Former 24"):
        narrow.model.get_audiovisual_features(torch.stack(frames(1)), torch.stack(mels(1)))


def test_placeholders_and_media_must_agree(model: Model, frames: Any) -> None:
    with pytest.raises(ValueError, match="10 video placeholders, but the media given have 5"):
        model(prompt([1], VIDEO, VIDEO), pixel_values_videos=frames(2))
    with pytest.raises(ValueError, match="0 video placeholders, but the media given have 5"):
        model(prompt([1, 2]), pixel_values_videos=frames(2))


def test_one_form_per_modality(model: Model, frames: Any) -> None:
    features = model.model.encode_video(frames(2))
    with pytest.raises(ValueError, match="in one form: raw, as frozen features, or as decoder tokens"):
        model(prompt([1], VIDEO), pixel_values_videos=frames(2), video_features=features)


def test_media_with_inputs_embeds_are_refused_without_rows_of_the_places(make: Any, frames: Any) -> None:
    model = make(text_config={"vocab_size": 60})  # the layout of earlier versions
    embeds = torch.zeros(1, 3, 32)
    with pytest.raises(ValueError, match=r"pixel_values_videos would be ignored\. Give input_ids"):
        model(inputs_embeds=embeds, pixel_values_videos=frames(1))
    with pytest.raises(ValueError, match=r"pixel_values_videos would be ignored\. Give input_ids"):
        model.generate(inputs_embeds=embeds, pixel_values_videos=frames(1), max_new_tokens=1)


def test_a_missing_part_is_named_with_its_setting(make: Any, frames: Any, mels: Any) -> None:
    seeing = make(with_audio_branch=False, with_imagebind_vision=False)
    with pytest.raises(ValueError, match=r"without imagebind_audio\. Set with_audio_branch=True"):
        seeing(prompt([1], AUDIO), input_features=mels(1))
    with pytest.raises(ValueError, match=r"without imagebind_vision\. Set with_imagebind_vision=True"):
        seeing(prompt([1], AUDIO), audio_pixel_values=frames(1))
    assert seeing(prompt([1], VIDEO), pixel_values_videos=frames(1)).logits.shape == (1, 6, 62)


@pytest.mark.parametrize(
    ("setting", "value", "num_video", "num_audio"),
    [("num_video_query_tokens", 4, 4, 2), ("num_audio_query_tokens", 6, 5, 6), ("num_query_tokens", 7, 5, 2)],
)
def test_the_numbers_of_query_tokens(
    make: Any, frames: Any, mels: Any, setting: str, value: int, num_video: int, num_audio: int
) -> None:
    body = make(**{setting: value}).model
    assert body.encode_video(frames(2)).shape == (1, num_video, 32)
    assert body.encode_audio(mels(2)).shape == (1, num_audio, 32)
    assert body.encode_frames(torch.stack(frames(2))).shape[2] == (value if setting == "num_query_tokens" else 3)


@pytest.mark.parametrize(("setting", "limit"), [("max_frame_pos", 9), ("max_audio_pos", 3)])
def test_the_numbers_of_positions(make: Any, frames: Any, mels: Any, setting: str, limit: int) -> None:
    body = make(**{setting: limit}).model
    encode, draw = (body.encode_video, frames) if setting == "max_frame_pos" else (body.encode_audio, mels)
    assert encode(draw(limit)).shape[0] == 1
    with pytest.raises(ValueError, match=f"{limit + 1} time steps, but this model has positions for {limit}"):
        encode(draw(limit + 1))


def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_tokens(model: Model, frames: Any) -> None:
    ids = torch.cat([prompt([1], VIDEO, [4, 5, 6]), prompt([1], VIDEO, [9, 0, 0])])
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    labels = torch.full_like(ids, -100)
    labels[0, -2:], labels[1, 6] = torch.tensor([5, 6]), 9
    outputs = model(ids, attention_mask=mask, labels=labels, pixel_values_videos=frames(2, 3))
    chosen = outputs.logits.log_softmax(dim=-1)[[0, 0, 1], [6, 7, 5], [5, 6, 9]]
    torch.testing.assert_close(outputs.loss, -chosen.mean())


def test_both_branches_train_together(model: Model, frames: Any, mels: Any) -> None:
    """The reference crashes here (golden NOTES, section 4)."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("model.video_qformer.", "model.audio_qformer.")))
    ids = prompt([1], VIDEO, AUDIO, [4, 5])
    model(ids, labels=ids.clamp(max=59), pixel_values_videos=frames(3), input_features=mels(4)).loss.backward()
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None} == {
        "video_qformer",
        "audio_qformer",
    }


def test_parts_without_a_trainable_parameter_stay_in_evaluation_mode(model: Model) -> None:
    model.requires_grad_(False)
    model.model.video_qformer.requires_grad_(True)
    model.train()
    training = {name for name, child in model.model.named_children() if child.training}
    assert training == {"video_qformer"}


def test_gradient_checkpointing_changes_nothing(make: Any, frames: Any) -> None:
    norms = []
    for is_checkpointing in (False, True):
        model = make(qformer_config={**_without_dropout(make)})
        if is_checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        ids = prompt([1], VIDEO, [4, 5])
        model(ids, labels=ids.clamp(max=59), pixel_values_videos=frames(3)).loss.backward()
        norms.append(model.model.video_qformer.query_tokens.grad.norm())
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-5, atol=0)


def _without_dropout(make: Any) -> dict[str, Any]:
    settings = make().config.qformer_config.to_dict()
    return {**settings, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_save_and_load_are_exact(model: Model, frames: Any, mels: Any, tmp_path: Path) -> None:
    model.model.imagebind_audio.log_logit_scale.fill_(2.5)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    media = {"pixel_values_videos": frames(3), "input_features": mels(2)}
    ids = prompt([1], VIDEO, AUDIO, [4])
    expected = model(ids, **media).logits
    for kind in (VideoLlamaForConditionalGeneration, AutoModelForMultimodalLM, AutoModelForImageTextToText):
        loaded = kind.from_pretrained(tmp_path)
        assert isinstance(loaded, VideoLlamaForConditionalGeneration)
        assert torch.equal(loaded(ids, **media).logits, expected)
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is VideoLlamaModel
    assert torch.equal(body(ids, **media).last_hidden_state, model.model(ids, **media).last_hidden_state)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), VideoLlamaConfig)


def test_tied_embeddings_stay_tied(make: Any, tmp_path: Path) -> None:
    settings = {**make().config.text_config.to_dict(), "tie_word_embeddings": True}
    tied = make(text_config=settings)
    tied.save_pretrained(tmp_path)
    loaded = VideoLlamaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, tied.get_input_embeddings().weight)


def test_a_new_model_has_outputs_of_normal_size(config: Any, frames: Any, mels: Any) -> None:
    """With the default initialisation of transformers, the ViT's output would not depend on the image."""
    torch.manual_seed(0)
    body = VideoLlamaForConditionalGeneration(config()).eval().model
    first, second = (video[None] for video in frames(4, 4))
    tokens = body.frame_encoder.vision_model(first[0]).last_hidden_state
    assert torch.isfinite(tokens).all()
    assert 0.5 < tokens.std().item() < 2  # a LayerNorm ends the ViT
    for encode in (body.encode_frames, body.encode_video, body.get_audio_features_from_frames):
        assert (encode(first) - encode(second)).abs().max() > 1e-4, encode.__name__
    sounds = [mel[None] for mel in mels(2, 2)]
    assert (body.encode_clips(sounds[0]) - body.encode_clips(sounds[1])).abs().max() > 1e-2
    zero = {name for name, parameter in body.named_parameters() if not parameter.any() and "bias" not in name}
    assert zero == set()


def test_half_precision_is_close(model: Model, frames: Any, mels: Any) -> None:
    ids = prompt([1], VIDEO, AUDIO, [4])
    exact = model(ids, pixel_values_videos=frames(3), input_features=mels(2)).logits
    media = {
        "pixel_values_videos": [v.bfloat16() for v in frames(3)],
        "input_features": [m.bfloat16() for m in mels(2)],
    }
    rounded = model.bfloat16()(ids, **media).logits
    assert rounded.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits, an error of 0.4 % of each value; over the layers that adds up to a few per cent.
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.std()
