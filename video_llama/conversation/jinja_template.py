"""The Jinja chat template of a model folder: a conversation's messages as the prompt that ``Conversation`` renders.

In: messages of transformers' chat format. Media are blocks of type video, image or audio; ``<video>`` and ``<audio>``
stand at their places. A video and the sound next to it are one medium, unless the sound has a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from video_llama.conversation.conversation_video import (
    IMAGE_SYSTEM,
    SIGHT_GAP,
    SIGHT_INTRODUCTION,
    SOUND_GAP,
    SOUND_INTRODUCTION,
)
from video_llama.conversation.templates import TEMPLATES, Style, Template
from video_llama.conversation.tokenization import AUDIO_PLACE, VIDEO_PLACE

_MEDIA = """\
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
"""

_SYSTEM = """\
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
        "IMAGE_SYSTEM": repr(IMAGE_SYSTEM if template.style is Style.SINGLE else template.system),
        "SYSTEM": repr(template.system),
        "SEP": template.sep,
        "STOP": template.stop_string,
        "USER": template.roles[0],
        "ASSISTANT": template.roles[1],
    }
    return media_sentences() + _filled(_SYSTEM + _body(template), values)


def media_sentences() -> str:
    """Return the beginning of a template: the macro ``written(content)``, and ``first.system``, the system text."""
    values = {
        "SOUND_INTRODUCTION": SOUND_INTRODUCTION,
        "SIGHT_INTRODUCTION": SIGHT_INTRODUCTION,
        "SOUND_GAP": SOUND_GAP,
        "SIGHT_GAP": SIGHT_GAP,
        "VIDEO_PLACE": VIDEO_PLACE,
        "AUDIO_PLACE": AUDIO_PLACE,
    }
    return _filled(_MEDIA, values)


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _body(template: Template) -> str:
    assert template.style is not Style.TWO, "no decoder uses Style.TWO"
    return _SINGLE if template.style is Style.SINGLE else _LLAMA_2
