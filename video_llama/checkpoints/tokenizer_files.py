"""Write the tokenizer and prompt files that transformers reads.

These are tokenizer_config.json, chat_template.jinja and generation_config.json. The chat template renders a
conversation exactly as ``video_llama.conversation`` does; a medium is the reference's placeholder ``<ImageHere>``.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import GenerationConfig

from video_llama.conversation import TEMPLATES, Tokenizer
from video_llama.conversation.conversation_video import (
    IMAGE_SYSTEM,
    PLACEHOLDER,
    SIGHT_GAP,
    SIGHT_INTRODUCTION,
    SOUND_GAP,
    SOUND_INTRODUCTION,
    Style,
    Template,
)

_CONTENT = """\
{%- macro written(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- set kinds = content | map(attribute='type') | list -%}
{%- set heard = 'Now answer my question based on what you have just ' -%}
{%- set parts = namespace(list=[]) -%}
{%- for item in content -%}
{%- if item.type == 'text' -%}{%- set parts.list = parts.list + [item.text] -%}
{%- elif item.type == 'image' -%}{%- set parts.list = parts.list + ['<Image>PLACEHOLDER</Image> '] -%}
{%- elif item.type == 'audio' and 'video' in kinds -%}
{%- set seen = 'SOUND_GAPSIGHT_INTRODUCTION<Video>PLACEHOLDER</Video>.SIGHT_GAP' -%}
{%- set parts.list = parts.list + ['SOUND_INTRODUCTIONPLACEHOLDER.' + seen + heard + 'seen and heard.'] -%}
{%- elif item.type == 'audio' -%}
{%- set parts.list = parts.list + ['SOUND_INTRODUCTIONPLACEHOLDER.SIGHT_GAP' + heard + 'heard.'] -%}
{%- elif item.type == 'video' and 'audio' not in kinds -%}
{%- set parts.list = parts.list + ['<Video>PLACEHOLDER</Video> '] -%}
{%- endif -%}
{%- endfor -%}
{{- parts.list | join(' ') -}}
{%- endif -%}
{%- endmacro -%}
{%- set first = namespace(kind=none, system=none) -%}
{%- for message in messages -%}
{%- if message.role == 'system' and first.system is none -%}{%- set first.system = message.content -%}
{%- elif message.content is not string -%}
{%- for item in message.content if item.type != 'text' and first.kind is none -%}
{%- set first.kind = item.type -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- set default = {none: SYSTEM, 'image': IMAGE_SYSTEM}.get(first.kind, '') -%}
{%- set system = first.system if first.system is not none else default -%}
{%- set turns = messages | rejectattr('role', 'equalto', 'system') | list -%}
{{- bos_token -}}
"""

_SINGLE = """\
{{- system + 'SEP' -}}
{%- for message in turns -%}
{{- ('USER' if message.role == 'user' else 'ASSISTANT') + ': ' + written(message.content) + 'SEP' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""

_LLAMA_2 = """\
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{{- 'SEP[INST] ' if not loop.first else '[INST] <<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' -}}
{{- written(message.content) + ' [/INST]' -}}
{%- else -%}{{- ' ' + written(message.content) + ' STOP' -}}
{%- endif -%}
{%- endfor -%}
"""


def chat_template(name: str) -> str:
    """Return the Jinja chat template for one of the prompt templates in ``TEMPLATES``."""
    template = TEMPLATES[name]
    values = {
        "SOUND_INTRODUCTION": SOUND_INTRODUCTION,
        "SIGHT_INTRODUCTION": SIGHT_INTRODUCTION,
        "SOUND_GAP": SOUND_GAP,
        "SIGHT_GAP": SIGHT_GAP,
        "PLACEHOLDER": PLACEHOLDER,
        "IMAGE_SYSTEM": repr(IMAGE_SYSTEM if template.style is Style.SINGLE else template.system),
        "SYSTEM": repr(template.system),
        "SEP": template.sep,
        "STOP": template.stop_string,
        "USER": template.roles[0],
        "ASSISTANT": template.roles[1],
    }
    text = _CONTENT + _body(template)
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _body(template: Template) -> str:
    assert template.style is not Style.TWO, "no decoder uses Style.TWO"
    return _SINGLE if template.style is Style.SINGLE else _LLAMA_2


def write_tokenizer_files(folder: Path, tokenizer: Tokenizer, pad_token: str | None, template: str) -> None:
    """Write the three files into a folder that contains ``tokenizer.model``; ``template`` is a key of TEMPLATES."""
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": pad_token or "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template(template), encoding="utf-8")
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    GenerationConfig(**ids).save_pretrained(folder)  # type: ignore[no-untyped-call]
