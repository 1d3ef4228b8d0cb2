"""Style sheets and scripts: files of the package, under a path that names their content.

So a browser keeps them for good and asks for none of them again, and a new hubstate's pages never meet an older one's
scripts. `/static` itself answers, too, for whoever wants a name that stays; such a copy is asked for again.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

__all__ = ["PATH", "add"]


def _digest() -> str:
    digest = hashlib.sha256()
    folder = resources.files("hubstate.server") / "static"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


PATH = f"/static/{_digest()}"


class _Files(StaticFiles):
    def __init__(self, keep: str) -> None:
        super().__init__(packages=[("hubstate.server", "static")])
        self._keep = keep

    def file_response(self, *args: Any, **more: Any) -> Response:
        answer = super().file_response(*args, **more)
        answer.headers["Cache-Control"] = self._keep
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return answer


def add(app: FastAPI) -> None:
    """Adds the files to the application."""
    app.mount(PATH, _Files("public, max-age=31536000, immutable"), name="assets")
    app.mount("/static", _Files("no-cache"), name="static")
