"""``import video_llama.auto`` registers the Auto classes; without it, a folder says what to import."""

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    pipeline,
)

import video_llama
import video_llama.auto as auto
from tests.factories.models import make_folder
from video_llama.chat.engine import Writer
from video_llama.chat.loading import MINIATURE_PATH


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


READY = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


def about(clip, question):
    blocks = [{"type": "video", "path": str(clip)}, {"type": "text", "text": question}]
    return [{"role": "user", "content": blocks}]


def generated(model, processor, messages, **options):
    """The ids [1, new] of the standard program of transformers."""
    inputs = processor.apply_chat_template(messages, **READY).to(model.device)
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


def answered(model, processor, messages):
    """The text of the standard program of transformers."""
    return processor.batch_decode(generated(model, processor, messages), skip_special_tokens=True)[0]


@pytest.fixture
def chat_ids(monkeypatch):
    """The token ids of Chat's answers, in order; the test clears the list."""
    ids, push = [], Writer.push
    monkeypatch.setattr(Writer, "push", lambda writer, token: ids.append(token) or push(writer, token))
    return ids


@pytest.fixture(scope="module")
def miniature():
    return AutoModelForMultimodalLM.from_pretrained(MINIATURE_PATH), AutoProcessor.from_pretrained(MINIATURE_PATH)


@pytest.fixture(scope="module")
def chats():
    return video_llama.load("miniature", device="cpu")


@pytest.mark.parametrize("question", ["What happens?", "What do you hear?"])
@pytest.mark.parametrize("example", ["silent_star", "square_with_hum", "two_shapes"])
def test_answers_are_those_of_chat(miniature, chats, chat_ids, repository, example, question):
    clip = repository / "examples" / f"{example}.mp4"
    answer = chats.chat(clip).ask(question)
    ids = generated(*miniature, about(clip, question))
    assert ids[0].tolist() == chat_ids
    assert miniature[1].batch_decode(ids, skip_special_tokens=True)[0] == answer.text


@pytest.mark.parametrize("style", ["default", "llama2"])
def test_tokens_of_both_templates_are_those_of_chat(tmp_path, chat_ids, repository, style):
    folder = make_folder(tmp_path / "tiny", seed=3, prompt_template=style)
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assistant = video_llama.load(folder, device="cpu")
    for clip in sorted((repository / "examples").glob("*.mp4")):
        chat_ids.clear()
        answer = assistant.chat(clip).ask("What?", max_new_tokens=12)
        ids = generated(model, processor, about(clip, "What?"), max_new_tokens=12)[0]
        assert ids.tolist() == chat_ids
        if processor.tokenizer.bos_token_id not in ids:  # the random model may begin another text
            assert processor.decode(ids, skip_special_tokens=True) == answer.text


def test_pipeline(chats, repository):
    clip = repository / "examples" / "square_with_hum.mp4"
    answer = pipeline("image-text-to-text", model=str(MINIATURE_PATH), device="cpu")(
        text=about(clip, "What happens?"), return_full_text=False
    )
    assert answer[0]["generated_text"].strip() == chats.chat(clip).ask("What happens?").text


def test_device_map(miniature, chats, repository):
    pytest.importorskip("accelerate")
    model = AutoModelForMultimodalLM.from_pretrained(MINIATURE_PATH, device_map="auto")
    messages = about(repository / "examples" / "silent_star.mp4", "What happens?")
    assert answered(model, miniature[1], messages) == answered(*miniature, messages)


def test_lora(miniature, repository):
    """A new adapter changes nothing; after a step of training it does, and ``generate`` still works."""
    peft = pytest.importorskip("peft")
    base = AutoModelForMultimodalLM.from_pretrained(MINIATURE_PATH, dtype=torch.float32)
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", task_type="CAUSAL_LM")
    model, processor = peft.get_peft_model(base, config), miniature[1]
    messages = about(repository / "examples" / "silent_star.mp4", "What happens?")
    assert answered(model, processor, messages) == "A green star moves down."
    inputs = processor.apply_chat_template(messages, **READY)
    before = model(**inputs).logits.detach()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1.0)
    for _ in range(2):
        model(
            **inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] >= processor.video_token_id, -100)
        ).loss.backward()
        optimizer.step()
    assert not torch.equal(model(**inputs).logits, before)
    assert answered(model, processor, messages)
