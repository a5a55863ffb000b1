"""Write the tokenizer, prompt and generation files that transformers reads.

These are tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json. The token ids are those
of ``video_llama.conversation``, and the chat template renders a conversation as that package does, with ``<video>`` and
``<audio>`` at the places of media.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from video_llama.conversation import AUDIO_PLACE, TEMPLATES, VIDEO_PLACE, Tokenizer, tokenizer_json
from video_llama.conversation.conversation_video import (
    IMAGE_SYSTEM,
    SIGHT_GAP,
    SIGHT_INTRODUCTION,
    SOUND_GAP,
    SOUND_INTRODUCTION,
    Style,
    Template,
)

# A video and the sound next to it are one medium, unless the sound has a file of its own.
_CONTENT = """\
{%- macro is_track(item) -%}
{%- if item.type == 'audio' and not (item.audio is defined or item.path is defined or item.url is defined) -%}1
{%- endif -%}
{%- endmacro -%}
{%- macro written(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- set heard = 'Now answer my question based on what you have just ' -%}
{%- set parts = namespace(list=[], skipped=-1) -%}
{%- for item in content -%}
{%- set before = content[loop.index0 - 1] if loop.index0 > 0 else {} -%}
{%- set after = content[loop.index0 + 1] if loop.index0 + 1 < content | length else {} -%}
{%- if loop.index0 == parts.skipped -%}
{%- elif item.type == 'text' -%}{%- set parts.list = parts.list + [item.text] -%}
{%- elif item.type == 'image' -%}{%- set parts.list = parts.list + ['<Image>VIDEO_PLACE</Image> '] -%}
{%- elif (item.type == 'video' and is_track(after)) or (is_track(item) and after.type == 'video') -%}
{%- set parts.skipped = loop.index0 + 1 -%}
{%- set seen = 'SOUND_GAPSIGHT_INTRODUCTION<Video>VIDEO_PLACE</Video>.SIGHT_GAP' -%}
{%- set parts.list = parts.list + ['SOUND_INTRODUCTIONAUDIO_PLACE.' + seen + heard + 'seen and heard.'] -%}
{%- elif item.type == 'audio' -%}
{%- set parts.list = parts.list + ['SOUND_INTRODUCTIONAUDIO_PLACE.SIGHT_GAP' + heard + 'heard.'] -%}
{%- elif item.type == 'video' -%}{%- set parts.list = parts.list + ['<Video>VIDEO_PLACE</Video> '] -%}
{%- endif -%}
{%- endfor -%}
{{- parts.list | join(' ') -}}
{%- endif -%}
{%- endmacro -%}
{%- set first = namespace(kind=none, system=none) -%}
{%- for message in messages -%}
{%- if message.role == 'system' and first.system is none -%}{%- set first.system = written(message.content) -%}
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
{%- if message.role == 'user' -%}{{- 'USER: ' + written(message.content) + 'SEP' -}}
{%- else -%}{{- 'ASSISTANT:' -}}{%- generation -%}{{- ' ' + written(message.content) + 'SEP' -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""

_LLAMA_2 = """\
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{{- 'SEP[INST] ' if not loop.first else '[INST] <<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' -}}
{{- written(message.content) + ' [/INST]' -}}
{%- else -%}{%- generation -%}{{- ' ' + written(message.content) + ' STOP' -}}{%- endgeneration -%}
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
        "VIDEO_PLACE": VIDEO_PLACE,
        "AUDIO_PLACE": AUDIO_PLACE,
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
    """Write the four files into a folder that contains ``tokenizer.model``; ``template`` is a key of TEMPLATES."""
    content = json.dumps(tokenizer_json(folder / "tokenizer.model", pad_token=pad_token), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    # This class takes tokenizer.json as it is. LlamaTokenizer of transformers 5 builds rules of its own.
    config = _special_tokens(tokenizer, pad_token) | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"video_token": VIDEO_PLACE, "audio_token": AUDIO_PLACE},
        "processor_class": "VideoLlamaProcessor",
    }
    _write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(chat_template(template), encoding="utf-8")
    write_generation_config(folder, tokenizer)


def write_decoder_tokenizer_files(folder: Path, tokenizer: Tokenizer, pad_token: str | None) -> None:
    """Write the files of a decoder's own folder, which the reference and LlamaTokenizer read; it has no media."""
    config = _special_tokens(tokenizer, pad_token) | {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", config)
    write_generation_config(folder, tokenizer)


def write_generation_config(folder: Path, tokenizer: Tokenizer, stop_strings: tuple[str, ...] = ()) -> None:
    """Set the ids, and the strings other than the end token that end an answer, in ``generation_config.json``."""
    has_file = (folder / "generation_config.json").is_file()
    config: Any = GenerationConfig.from_pretrained(folder) if has_file else GenerationConfig()  # type: ignore[no-untyped-call]
    config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    config.stop_strings = list(stop_strings) or None
    config.save_pretrained(folder)


def _special_tokens(tokenizer: Tokenizer, pad_token: str | None) -> dict[str, Any]:
    texts = {tokenizer.encode(text)[0]: text for text in tokenizer.special_texts}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "unk_token": tokenizer.unk_id}
    names: dict[str, Any] = {name: texts[token] for name, token in ids.items()}
    return {**names, "pad_token": pad_token or names["unk_token"]}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
