"""The Jinja chat template of a model folder whose decoder has its own: its turn format, with this project's media."""

from __future__ import annotations

import re

from video_llama.conversation.jinja_template import media_sentences
from video_llama.conversation.templates import Template

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
    return media_sentences() + names.sub(lambda match: values[match.group()], _TURNS)
