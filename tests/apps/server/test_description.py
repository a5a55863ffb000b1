"""schemathesis asks what the API's own description allows, and what it does not: every reply is as described."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.apps.server.conftest import running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
CHAT = "/v1/chat/completions"
OTHERS = ("/v1/models", "/v1/models/{name}", "/health", "/metrics")


@pytest.fixture(scope="module")
def description(assistant):
    with running(assistant, max_new_tokens=8) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def check(operation, mode, num_examples, **body) -> None:
    """Ask examples of an operation; ``body`` is put into each request's."""

    @settings(max_examples=num_examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        if body:
            case.body.update(body)
        case.call_and_validate(checks=CHECKS)

    ask()


def test_every_path_is_asked(description):
    assert {operation.ok().path for operation in description.get_all_operations()} == {CHAT, *OTHERS}


@pytest.mark.parametrize("path", OTHERS)
def test_replies_are_as_described(description, path):
    check(description[path]["GET"], GenerationMode.POSITIVE, num_examples=10)


def test_chat_with_what_is_allowed(description):
    check(description[CHAT]["POST"], GenerationMode.POSITIVE, num_examples=60, model="tiny")


def test_chat_with_what_is_not(description):
    check(description[CHAT]["POST"], GenerationMode.NEGATIVE, num_examples=60)
