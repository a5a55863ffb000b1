"""Write the prompt files of a model folder whose decoder has its own chat template.

These are tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json. The chat template is
the decoder's turn format with the media sentences of this project: transformers' processor makes the prompts of Chat.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from video_llama.checkpoints.tokenizer_files import chat_template, write_generation_config
from video_llama.conversation import FastTokenizer, Template

_TURNS = """\
{%- set system = first.system if first.system is not none else SYSTEM -%}
{%- set turns = messages | rejectattr('role', 'equalto', 'system') | list -%}
{%- if system and not HAS_SYSTEM -%}
{{- raise_exception("The decoder's chat template has no system message.") -}}
{%- endif -%}
{{- BOS -}}
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{%- if not loop.first -%}{{- NEXT_QUESTION -}}
{%- elif system or ALWAYS_HAS_SYSTEM -%}{{- PREFIX + system + SUFFIX -}}
{%- else -%}{{- BEGIN -}}
{%- endif -%}
{{- written(message.content) + QUESTION_END -}}
{%- else -%}{%- generation -%}{{- ANSWER_PREFIX + written(message.content) + ANSWER_END -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
"""


def turns_chat_template(template: Template, *, add_bos: bool) -> str:
    """Return the Jinja chat template of a turn format, with the media sentences of this project."""
    turns = template.turns
    assert turns is not None, "only TURNS has a turn format"
    media, found, _ = chat_template("default").partition("{%- set default")
    assert found, "the text of tokenizer_files"
    values = {
        "ALWAYS_HAS_SYSTEM": "true" if turns.always_has_system else "false",
        "HAS_SYSTEM": "false" if turns.system_prefix is None else "true",
        "SYSTEM": repr(template.system),
        "PREFIX": repr(turns.system_prefix or ""),
        "SUFFIX": repr(turns.system_suffix),
        "BEGIN": repr(turns.begin),
        "BOS": "bos_token" if add_bos else "''",
        "NEXT_QUESTION": repr(turns.next_question),
        "QUESTION_END": repr(turns.question_end),
        "ANSWER_PREFIX": repr(turns.answer_prefix),
        "ANSWER_END": repr(turns.answer_end),
    }
    names = re.compile(r"\b(" + "|".join(values) + r")\b")
    return media + names.sub(lambda match: values[match.group()], _TURNS)


def write_chat_template_files(folder: Path, tokenizer: FastTokenizer, template: Template) -> None:
    """Write chat_template.jinja and generation_config.json into a folder that contains the tokenizer's files."""
    text = turns_chat_template(template, add_bos=tokenizer.add_bos)
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    end = tokenizer.encode(template.stop_string)
    is_token = len(end) == 1
    write_generation_config(folder, tokenizer, () if is_token else (template.stop_string,))
    if is_token and end[0] != tokenizer.eos_id:
        add_end_token(folder, end[0])


def add_end_token(folder: Path, token: int) -> None:
    """Add a token that ends an answer to ``generation_config.json``."""
    config: Any = GenerationConfig.from_pretrained(folder)
    ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = [*ids, token]
    config.save_pretrained(folder)
