"""Front ends of frames and sound, and what vLLM reads of the processor."""

import numpy as np
import torch


def test_what_vllm_calls(processor, clips):
    """Attributes and shapes that vLLM's backend for transformers' models reads; vLLM itself is not run."""
    counted = processor._get_num_multimodal_tokens(image_sizes=[[100, 50]], video_sizes=[[4, 9, 9]] * 2)
    num_tokens = processor.numbers.num_video_query_tokens
    assert counted["num_image_tokens"] == [num_tokens]
    assert counted["num_video_tokens"] == [num_tokens] * 2
    assert counted["num_image_patches"] == [1]
    assert processor.video_processor.size == {"height": 28, "width": 28}
    assert processor.video_processor.model_input_names == ["pixel_values_videos"]
    assert processor.image_processor.model_input_names == ["pixel_values"]
    assert processor.feature_extractor.model_input_names == ["input_features"]
    assert processor.feature_extractor.sampling_rate == 16000
    vocabulary = processor.tokenizer.get_vocab()
    assert vocabulary[processor.video_token] == processor.video_token_id
    assert vocabulary[processor.audio_token] == processor.audio_token_id
    video, audio = np.zeros((6, 50, 70, 3), dtype=np.uint8), np.random.default_rng(0).uniform(-1, 1, 48000)
    inputs = processor(
        text="<video> and <audio>",
        videos=[video],
        audio=[audio],
        add_special_tokens=False,
        truncation=False,
        do_sample_frames=False,
        return_text_replacement_offsets=True,
        return_tensors="pt",
    )
    assert inputs["pixel_values_videos"].shape == (1, 6, 3, 28, 28)
    assert inputs["input_features"].shape[0] == 1
    [offsets] = inputs["text_replacement_offsets"]
    assert [each["type"] for each in offsets] == ["video", "audio"]
    lengths = [len(processor.tokenizer.encode(each["replacement"], add_special_tokens=False)) for each in offsets]
    assert lengths == [num_tokens, processor.numbers.num_audio_query_tokens]


def test_front_ends_alone(processor, clips):
    values = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)
    whole = processor(videos=[values], do_sample_frames=False)["pixel_values_videos"]
    assert torch.equal(processor.video_processor(values)["pixel_values_videos"], whole)
    assert torch.equal(processor.image_processor(values[0])["pixel_values"], whole[:, 0])
    samples = np.random.default_rng(0).uniform(-1, 1, 16000)
    assert torch.equal(
        processor.feature_extractor(samples)["input_features"], processor(audio=samples)["input_features"]
    )
