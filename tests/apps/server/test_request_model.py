"""Null values, unsupported parameters and texts, in validation and in the JSON schema."""

from typing import Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from video_llama.apps.server.request_model import RequestModel, Text, is_tag, unsupported


class Inner(RequestModel):
    kind: Literal["a"]
    text: Text = ""


class Outer(RequestModel):
    inner: Inner
    number: int = 3
    tools: unsupported("none") = None


@pytest.mark.parametrize("extra", [{}, {"number": None}, {"tools": None}, {"unknown": None}])
def test_null_is_not_given(extra):
    made = Outer.model_validate({"inner": {"kind": "a", "text": None, "unknown": None}, **extra})
    assert made == Outer(inner=Inner(kind="a"))


@pytest.mark.parametrize("fields", [{"inner": None}, {}, {"inner": {"kind": None}}, {"inner": {"kind": "a"}, "x": 0}])
def test_required_and_unknown_keys(fields):
    with pytest.raises(ValidationError):
        Outer.model_validate(fields)


def test_schema_allows_null():
    schema = Outer.model_json_schema()
    assert schema["required"] == ["inner"]
    assert schema["additionalProperties"] == {"type": "null"}
    assert schema["properties"]["number"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert "anyOf" not in schema["$defs"]["Inner"]["properties"]["kind"]


@pytest.mark.parametrize("value", [None, "", [], {}, False, 0, "none"])
def test_neutral_values(value):
    TypeAdapter(unsupported("none")).validate_python(value)


@pytest.mark.parametrize("value", [True, 1, "auto", [0], {"a": None}, "None"])
def test_other_values_are_refused(value):
    with pytest.raises(ValidationError, match="not supported by this server"):
        TypeAdapter(unsupported("none")).validate_python(value)


def test_texts_without_surrogates():
    adapter = TypeAdapter(Text)
    assert adapter.validate_python("\U0001f600") == "\U0001f600"
    with pytest.raises(ValidationError, match=r"character 2 is U\+D83D, half of a surrogate pair"):
        adapter.validate_python("a\ud83d")


def test_tags():
    assert is_tag("<user>")
    assert not is_tag("user")
