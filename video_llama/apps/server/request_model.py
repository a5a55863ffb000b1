"""Base class and types of request schemas: null values, texts, and parameters that are not supported."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

UNSUPPORTED = "this parameter is not supported by this server. Leave it out"
LEFT_OUTSIDE = ("default", "title", "description")
"""Keywords of a property that are not part of an alternative of it."""


def is_tag(step: str) -> bool:
    """Return whether a step of an error's location is the name of an alternative and not a key of the request."""
    return step.startswith("<") and step.endswith(">")


def _whole(text: str) -> str:
    """Return the text. Raises PydanticCustomError for a lone surrogate, which no text in UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        message = f"character {error.start + 1} is {code}, half of a surrogate pair. Send the text as UTF-8"
        raise PydanticCustomError("surrogate", message) from None
    return text


def unsupported(*neutral: str | bool) -> Any:
    """Return the type of a parameter whose accepted values have no effect: null, empty ones and ``neutral``."""
    accepted: list[Any] = [None, "", [], {}, False, 0, *neutral]

    def check(value: Any) -> Any:
        if not any(value == nothing and type(value) is type(nothing) for nothing in accepted):
            raise PydanticCustomError("unsupported", UNSUPPORTED)
        return value

    return Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": accepted})]


Text = Annotated[str, AfterValidator(_whole)]
Url = Annotated[str, StringConstraints(min_length=1), AfterValidator(_whole)]


class RequestModel(BaseModel):
    """Base class of request schemas. Keys whose value is null are ignored, other unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        """Remove null values: official clients send parameters that are not given as null."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema in which optional properties, and unknown ones, may be null."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        required = schema.get("required", ())
        properties = schema.get("properties", {}).items()
        schema["properties"] = {name: part if name in required else _nullable(part) for name, part in properties}
        schema["additionalProperties"] = {"type": "null"}
        return reference


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    if null in schema.get("anyOf", ()) or None in schema.get("enum", ()):
        return schema
    kept = {name: value for name, value in schema.items() if name in LEFT_OUTSIDE}
    return {"anyOf": [{name: value for name, value in schema.items() if name not in kept}, null], **kept}


def chosen_by(key: str, values: tuple[str, ...]) -> Discriminator:
    """Return the choice between schemas by the value of a key. Its tags are those of ``is_tag``."""

    def tag_of(fields: Any) -> str | None:
        value = fields.get(key) if isinstance(fields, dict) else getattr(fields, key, None)
        return f"<{value}>" if value in values else None

    message = f"must be an object whose {key} is {', '.join(values[:-1])} or {values[-1]}"
    return Discriminator(tag_of, custom_error_type="alternative", custom_error_message=message)


def _text_or_list(content: Any) -> str | None:
    if isinstance(content, str):
        return "<string>"
    return "<list>" if isinstance(content, list) else None


TEXT_OR_LIST = Discriminator(
    _text_or_list, custom_error_type="alternative", custom_error_message="must be a string or a list"
)
