"""Decoder folders with tokenizer.json and a chat template of their own: tiny random LlamaForCausalLMs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

TEXT = ["What do you see?", "A red circle moves to the left.", "How many birds are there? Three."]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}{{ bos_token }}"
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% endif %}"
)


class Format(NamedTuple):
    """A chat template and the special tokens of its tokenizer."""

    template: str
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    adds_bos: bool = False
    """Whether the tokenizer puts BOS before every text."""


FORMATS = {
    "chatml": Format(CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|im_start|>"),
    "llama3": Format(
        LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",  # as in the base model: the end of a turn is another token
        "<|begin_of_text|>",
        True,
    ),
    "zephyr": Format(ZEPHYR, ("<unk>", "<s>", "</s>"), "</s>", "<s>", True),
    "llama2": Format(LLAMA_2, ("<unk>", "<s>", "</s>"), "</s>", "<s>", True),
    "gemma": Format(GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>", True),
}


def write_chat_tokenizer(folder: Path, name: str) -> Path:
    """Write tokenizer.json and tokenizer_config.json of a byte-level BPE with one of FORMATS."""
    form = FORMATS[name]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(form.special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 5, trainer)
    if form.adds_bos:
        bos = (form.bos, tokenizer.token_to_id(form.bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{form.bos} $A", special_tokens=[bos])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": form.bos,
        "eos_token": form.eos,
        "chat_template": form.template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_chat_decoder(folder: Path, name: str = "chatml", *, extra_rows: int = 0, is_tied: bool = False) -> Path:
    """Write the folder of a tiny random decoder; ``extra_rows`` are rows of its embedding without a token."""
    write_chat_tokenizer(folder, name)
    num_tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = LlamaConfig(
        vocab_size=num_tokens + extra_rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,
        tie_word_embeddings=is_tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
