"""A decoder with its own chat template: assembled, trained, written, loaded, asked through Chat and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer

import video_llama.auto  # noqa: F401  (registers the classes)
from tests.checkpoints.conftest import assert_refused, planned
from tests.factories.chat_decoders import FORMATS, write_chat_decoder
from tests.factories.published_weights import HEADS, write_published
from video_llama.chat import load
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.decoder_folder import read_decoder_folder
from video_llama.checkpoints.export import export_to_reference
from video_llama.checkpoints.files import scan
from video_llama.checkpoints.folder import read_model_folder, write_model_folder
from video_llama.conversation import FastTokenizer, encode_prompt
from video_llama.errors import CheckpointError
from video_llama.training.merge import merge_into_folder
from video_llama.training.run import train_from_config


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    """A folder of published files: the encoders are used with another decoder."""
    return write_published(tmp_path_factory.mktemp("encoders") / "published")


def eval_yaml(path: Path, decoder: Path, encoders: Path, **more) -> Path:
    model = {
        "llama_model": str(decoder),
        "vit_ckpt_path": str(encoders / "eva_vit_g.pth"),
        "q_former_model": str(encoders / "blip2_pretrained_flant5xxl.pth"),
        "imagebind_ckpt_path": str(encoders),
        "num_video_query_token": 4,
        "max_frame_pos": 8,
        "config": HEADS,
        **more,
    }
    processor = {"train": {"name": "alpro_video_eval", "n_frms": 4, "image_size": 28}}
    path.write_text(yaml.safe_dump({"model": model, "datasets": {"webvid": {"vis_processor": processor}}}))
    return path


@pytest.fixture(scope="module", params=["chatml", "llama3"])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(name, tmp_path_factory, encoders) -> Path:
    """A model folder with random branches."""
    root = tmp_path_factory.mktemp("chat_decoder")
    decoder = write_chat_decoder(root / "decoder", name, extra_rows=7)
    convert(eval_yaml(root / "eval.yaml", decoder, encoders), root / "base", init_seed=1)
    return root / "base"


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> Path:
    """The folder after its branch was trained for 3 steps on an example clip."""
    root = tmp_path_factory.mktemp("trained")
    examples = Path(__file__).resolve().parents[2] / "examples"
    row = {"video": "silent_star.mp4", "messages": []}
    row["messages"] += [{"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A green star."}]
    (root / "rows.json").write_text(json.dumps([row] * 2))
    build_info = {"anno_dir": str(root / "rows.json"), "videos_dir": str(examples)}
    processor = {"train": {"name": "alpro_video_eval", "n_frms": 4}}
    branch = {"frozen_llama_proj": False, "frozen_video_Qformer": False, "model_type": "chat_template"}
    content = {
        "model": {"pretrained": str(base), **branch},
        "datasets": {"own": {"format": "messages", "build_info": build_info, "vis_processor": processor}},
        "run": {"output_dir": str(root / "run"), "batch_size_train": 2, "iters_per_epoch": 3, "device": "cpu"},
    }
    (root / "train.yaml").write_text(yaml.safe_dump(content))
    train_from_config(root / "train.yaml")
    folder = merge_into_folder([root / "run"], base, root / "model")
    # Sound was not trained; the parts are marked as trained so that the folder answers.
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"untrained_parts": []}))
    return folder


def test_rows_without_a_token_are_dropped(base):
    folder = read_model_folder(base)
    num_tokens = folder.tokenizer.vocab_size
    assert folder.model.config.text_config.vocab_size == num_tokens + 2 == scan(base)["lm_head.weight"].shape[0]
    assert folder.tokenizer.video_token_id == folder.model.config.video_token_id == num_tokens
    assert set(folder.manifest.untrained_parts) >= {"model.video_qformer.qformer.", "model.audio_qformer.qformer."}
    assert folder.model.config.num_video_query_tokens == 4
    with pytest.raises(CheckpointError, match=r"has untrained parts .*Train them"):
        load(base)


def test_the_folder_is_written_again(base, tmp_path):
    folder = read_model_folder(base)
    tokenizer_path = base / "tokenizer.json"
    write_model_folder(
        tmp_path / "again",
        folder.model,
        tokenizer_path=tokenizer_path,
        settings=folder.settings,
        manifest=folder.manifest,
    )
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (base / file).read_bytes()
    assert not (base / "tokenizer.model").exists()


def test_it_answers_after_training(name, trained):
    assistant = load(trained)
    clip = Path(__file__).resolve().parents[2] / "examples" / "silent_star.mp4"
    answer = assistant.chat(clip).ask("What moves?", max_new_tokens=5)
    begin = {"chatml": "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n<Video><ImageHere></Video> "}
    assert answer.record.prompt.startswith(begin.get(name, "<|start_header_id|>user<|end_header_id|>\n\n<Video>"))
    assert answer.record.prompt.endswith("assistant\n" if name == "chatml" else "assistant<|end_header_id|>\n\n")
    assert answer.record.tokens["generated"] <= 5


def test_the_tokenizer_of_transformers_makes_the_same_ids(name, trained):
    folder = read_model_folder(trained)
    assert isinstance(folder.tokenizer, FastTokenizer)
    theirs = AutoTokenizer.from_pretrained(trained)
    conversation = load(trained).engine.conversation()
    messages = []
    for question, answer in (("What moves?", "A star."), ("Where to, naïvely?", None)):
        conversation.ask(question)
        messages.append({"role": "user", "content": question})
        if answer is not None:
            conversation.answer(answer)
            messages.append({"role": "assistant", "content": answer})
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = theirs(text, add_special_tokens=False).input_ids
    prompt = encode_prompt(folder.tokenizer, conversation.prompt(), num_video_tokens=4, num_audio_tokens=3)
    assert ids == prompt.input_ids
    content = [{"type": "video"}, {"type": "text", "text": "What moves?"}]
    shown = theirs.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert f"<Video><video></Video> {' ' if 'Video>  ' in shown else ''}What moves?" in shown
    assert theirs.convert_tokens_to_ids("<video>") == folder.tokenizer.video_token_id
    theirs.add_tokens(["<mine>"])
    assert theirs.convert_tokens_to_ids("<mine>") == folder.tokenizer.audio_token_id + 1


def test_the_processor_and_generate_equal_chat(trained):
    clip = Path(__file__).resolve().parents[2] / "examples" / "silent_star.mp4"
    answer = load(trained, dtype="float32").chat(clip).ask("What moves?", max_new_tokens=8)
    processor = AutoProcessor.from_pretrained(trained)
    model = AutoModelForMultimodalLM.from_pretrained(trained, dtype=torch.float32)
    content = [{"type": "video", "path": str(clip)}, {"type": "text", "text": "What moves?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert inputs["input_ids"].shape[1] == answer.record.tokens["prompt"]
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(made, skip_special_tokens=True)[0].strip() == answer.text


def test_every_end_of_an_answer_is_in_the_generation_config(name, trained):
    tokenizer = read_model_folder(trained).tokenizer
    ends = json.loads((trained / "generation_config.json").read_text())["eos_token_id"]
    stop = tokenizer.encode(FORMATS[name].special[2 if name == "chatml" else 4])
    assert set(ends if isinstance(ends, list) else [ends]) == {tokenizer.eos_id, *stop}


def test_the_style_is_inferred(tmp_path, encoders):
    decoder = write_chat_decoder(tmp_path / "decoder")
    num_rows = scan(decoder)["lm_head.weight"].shape[0]
    found = read_decoder_folder(decoder, num_rows, None)
    assert (found.model_type, found.pad_token) == ("chat_template", None)
    assert found == read_decoder_folder(decoder, num_rows, "chat_template") or found.turn_format
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: no such file"):
        read_decoder_folder(decoder, num_rows, "vicuna")
    with pytest.raises(CheckpointError, match=r"has 9 rows, but tokenizer\.json has \d+ tokens"):
        read_decoder_folder(decoder, 9, None)
    path = eval_yaml(tmp_path / "eval.yaml", decoder, encoders)
    assert_refused(path, "do not contain video_Qformer")
    with pytest.raises(CheckpointError, match="do not contain video_Qformer"):
        planned(path)


def test_a_tied_decoder(tmp_path, encoders):
    decoder = write_chat_decoder(tmp_path / "decoder", is_tied=True)
    path = eval_yaml(tmp_path / "eval.yaml", decoder, encoders, equip_audio_branch=False)
    convert(path, tmp_path / "base", init_seed=1)
    model = read_model_folder(tmp_path / "base").model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_the_reference_cannot_use_it(base, tmp_path):
    with pytest.raises(CheckpointError, match="own chat template, which the reference cannot use"):
        export_to_reference(base, tmp_path / "back")
