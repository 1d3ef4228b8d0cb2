"""`/docs`: the calls of this hub, from the same description as `/openapi.json`, as a page without any script of others."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from hubstate.server.pages.desk import Desk

__all__ = ["add", "reference_view"]


def reference_view(told: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a description: its calls in their order, and the shapes that these name."""
    calls = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("summary", ""),
            "parameters": operation.get("parameters", []),
            "guarded": bool(operation.get("security")),
            "body": _content(operation.get("requestBody", {})),
            "answers": [
                {"status": status, "words": answer.get("description", ""), **_content(answer)}
                for status, answer in operation.get("responses", {}).items()
            ],
        }
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
    ]
    shapes = {name: _text(schema) for name, schema in told["components"]["schemas"].items()}
    return {"calls": calls, "shapes": shapes}


def _content(part: dict[str, Any]) -> dict[str, str]:
    """The one kind of content of a body or an answer: its media type, and its shape as JSON; empty if it has none."""
    for kind, content in part.get("content", {}).items():
        return {"kind": kind, "shape": _text(content.get("schema", {}))}
    return {"kind": "", "shape": ""}


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False).replace("#/components/schemas/", "")


def add(app: FastAPI, desk: Desk) -> None:
    """Adds the page. It tells nothing of what is stored, so it needs no login."""

    @app.get("/docs", include_in_schema=False)
    async def reference(request: Request) -> Response:
        return desk.page(request, "api.html", reference_view(app.openapi()))
