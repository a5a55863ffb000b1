"""Templates by name, and a turn format stored in a model's config."""

import pytest

from video_llama.conversation import TEMPLATES, Style, TurnFormat, chat_template_of, template_of
from video_llama.errors import CheckpointError

TURNS = TurnFormat("<u>", "<s>", "</e><u>", "</e><a>", "", "</e>", "<u>", False)


def test_names():
    assert template_of("default") is TEMPLATES["default"]
    with pytest.raises(CheckpointError, match=r"prompt_template is 'x'\. Set one of default, .*chat_template"):
        template_of("x")


def test_the_format_is_stored_in_a_config():
    template = chat_template_of(TURNS, "Be brief.")
    assert (template.style, template.stop_string, template.answer_mark) == (Style.TURNS, "</e>", None)
    stored = TURNS.as_dict() | {"system": "Be brief."}
    assert template_of("chat_template", stored) == template
    for wrong in ({}, {**stored, "begin": 3}, {**stored, "more": ""}, {**stored, "answer_end": " "}):
        with pytest.raises(CheckpointError, match="turn_format"):
            template_of("chat_template", wrong)
    with pytest.raises(CheckpointError, match=r"config\.json has no turn_format"):
        template_of("chat_template")
