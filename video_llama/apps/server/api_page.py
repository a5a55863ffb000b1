"""The ``/docs`` page: an OpenAPI description rendered as plain HTML, without scripts or external resources."""

from __future__ import annotations

import json
from html import escape
from typing import Any

PAGE_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{overflow:auto;padding:.75rem;border:1px solid #8888}code{font:14px ui-monospace,monospace}"
)


def api_page(description: dict[str, Any]) -> str:
    """Return the HTML of an OpenAPI description: its operations, then its schemas, each with an anchor."""
    info = description["info"]
    title = escape(f"{info['title']} {info['version']}")
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(_schema(name, schema) for name, schema in description["components"]["schemas"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{PAGE_STYLE}</style></head><body><h1>{title}</h1>'
        f'<p>{escape(info["description"])} <a href="openapi.json">openapi.json</a></p>'
        f"{operations}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    responses = "".join(
        f"<li><code>{escape(status)}</code> {escape(response['description'])}{_links(response)}</li>"
        for status, response in operation["responses"].items()
    )
    body = f"<p>Request body:{_links(operation['requestBody'])}</p>" if "requestBody" in operation else ""
    summary = escape(operation.get("description", ""))
    return f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{summary}</p>{body}<ul>{responses}</ul>"


def _links(part: dict[str, Any]) -> str:
    """Return links to the schemas of a request or response."""
    schemas = [content.get("schema", {}) for content in part.get("content", {}).values()]
    names = [schema["$ref"].rpartition("/")[2] for schema in schemas if "$ref" in schema]
    return "".join(f' <a href="#{escape(name)}">{escape(name)}</a>' for name in names)


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><pre><code>{text}</code></pre>'
