"""Prompt templates: those of the reference, by name, and that of a decoder with its own chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from video_llama.conversation.turn_format import TurnFormat
from video_llama.errors import CheckpointError


class Style(Enum):
    """Format in which messages are joined."""

    SINGLE = "SINGLE"  # system + sep + "Role: text" + sep + ...
    TWO = "TWO"  # as SINGLE, with sep after the user and sep2 after the assistant
    LLAMA_2 = "LLAMA_2"  # [INST] <<SYS>> ... [/INST] answer </s><s>[INST] ...
    TURNS = "TURNS"  # the texts of a decoder's own chat template (``TurnFormat``)


@dataclass(frozen=True)
class Template:
    """A prompt format. ``roles`` are the names of the user and the assistant."""

    style: Style
    system: str
    roles: tuple[str, str]
    sep: str
    sep2: str | None = None
    turns: TurnFormat | None = None
    """The texts around messages; set for TURNS only."""

    @property
    def answer_mark(self) -> str | None:
        """The text that begins an answer if the model writes it itself, such as "Assistant:"; None for TURNS."""
        return None if self.style is Style.TURNS else f"{self.roles[1]}:"

    @property
    def stop_string(self) -> str:
        """The text that ends an answer: ``sep`` for SINGLE, ``sep2`` for the others."""
        return self.sep if self.style is Style.SINGLE or self.sep2 is None else self.sep2


_VICUNA = Template(Style.SINGLE, "", ("Human", "Assistant"), "###")
_LLAMA_2 = Template(
    Style.LLAMA_2,
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.",
    ("USER", "ASSISTANT"),
    "<s>",
    "</s>",
)

TEMPLATES: dict[str, Template] = {
    "default": _VICUNA,
    "llama2": _LLAMA_2,
    "default_conversation": _VICUNA,
    "conv_llava_llama_2": _LLAMA_2,
    "CONV_VISION": replace(
        _VICUNA,
        system="Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide "
        "it to you. Please answer my questions.",
    ),
    "dataset.video_conversation": _VICUNA,
    "dataset.llama_v2_video_conversation": replace(_LLAMA_2, system=" "),
}
"""The reference's templates under its own names, plus ``default`` (Vicuna) and ``llama2``, the two used for serving."""

CHAT_TEMPLATE = "chat_template"
"""Name of the template of a decoder with a chat template of its own. Its ``turn_format`` is in the model's config."""


def chat_template_of(turns: TurnFormat, system: str) -> Template:
    """Return the template of a decoder with its own chat template; ``system`` is its default system text."""
    return Template(Style.TURNS, system, ("user", "assistant"), "", turns.stop_string, turns)


def template_of(name: str, turn_format: Mapping[str, Any] | None = None) -> Template:
    """Return the template that a model's config names, with ``turn_format`` for CHAT_TEMPLATE.

    Raises CheckpointError for an unknown name and for a wrong ``turn_format``.
    """
    if name == CHAT_TEMPLATE and isinstance(turn_format, Mapping):
        fields = dict(turn_format)
        system = fields.pop("system", None)
        if not isinstance(system, str):
            raise CheckpointError(f"turn_format: system is {repr(system)[:80]}. Write the folder again.")
        return chat_template_of(TurnFormat.from_dict(fields), system)
    if name == CHAT_TEMPLATE:
        raise CheckpointError(
            f"prompt_template is {name!r}, but config.json has no turn_format. Write the folder again."
        )
    if name not in TEMPLATES:
        raise CheckpointError(
            f"prompt_template is {name!r}. Set one of {', '.join(TEMPLATES)}, {CHAT_TEMPLATE} in config.json."
        )
    return TEMPLATES[name]
