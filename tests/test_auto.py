"""``import video_llama.auto`` registers the Auto classes; without it, a folder says what to import."""

import subprocess
import sys

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

import video_llama
import video_llama.auto as auto


def test_auto_classes(model_path):
    assert type(AutoConfig.from_pretrained(model_path)) is auto.VideoLlamaConfig
    assert type(AutoModel.from_pretrained(model_path)) is auto.VideoLlamaModel
    for kind in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(kind.from_pretrained(model_path)) is auto.VideoLlamaForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(model_path)) is auto.VideoLlamaProcessor


@pytest.mark.parametrize("arguments", ["", ", trust_remote_code=True"])
def test_without_the_import_the_folder_names_it(model_path, arguments):
    code = f"from transformers import AutoProcessor; AutoProcessor.from_pretrained({str(model_path)!r}{arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "Run `import video_llama.auto` first" in done.stderr


def test_a_folder_of_save_pretrained_answers(model_path, clips, assistant, tmp_path):
    """As Trainer and TRL write it: model and processor, no manifest."""
    AutoModelForMultimodalLM.from_pretrained(model_path).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(model_path).save_pretrained(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    answer = video_llama.load(tmp_path, device="cpu").chat(clips["video"]).ask("What?", max_new_tokens=5)
    assert answer.text == assistant.chat(clips["video"]).ask("What?", max_new_tokens=5).text
    assert answer.record.weights["notice"].startswith("no manifest")
