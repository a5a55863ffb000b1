"""transformers' Auto classes load a model folder."""

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer, GenerationConfig

from video_llama.checkpoints.auto import VideoLlamaConfig, VideoLlamaForConditionalGeneration, VideoLlamaProcessor


def test_auto_classes_load_a_converted_folder(converted):
    model, report = AutoModelForMultimodalLM.from_pretrained(converted, dtype=torch.float32, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(model, VideoLlamaForConditionalGeneration)
    assert isinstance(AutoConfig.from_pretrained(converted), VideoLlamaConfig)
    assert isinstance(AutoProcessor.from_pretrained(converted), VideoLlamaProcessor)
    assert model.config.prompt_template == "llama2"
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (1, 0)
    assert GenerationConfig.from_pretrained(converted).eos_token_id == 2


def test_the_documented_import_still_works():
    import video_llama.chat.auto as documented

    assert documented.VideoLlamaProcessor is VideoLlamaProcessor
