"""A hub of a simulated world that speaks HUB v1 and no more, as hubs did that were there before hubstate.

It draws the ids of its models, knows neither the keys of deliveries nor attempts, steps and digests, keeps one row an
epoch and two files a model, and needs no word of an end. What is said twice happens twice: a repeated opening makes a
second model. It lies in memory, and no restart harms it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hubstate.server.answers import Problem
from hubstate.server.uploads import Receiver

__all__ = ["Foreign", "Model", "Told"]


class Told(NamedTuple):
    """What it says: a status and a JSON object."""

    status: int
    body: dict[str, Any]


class Model(msgspec.Struct):
    """What it holds of a session: the row of each epoch (the last one that came), and each file's bytes by name."""

    name: str
    rows: dict[int, dict[str, Any]] = {}
    files: dict[str, bytes] = {}


class Foreign:
    """The hub. `folder`: where uploads grow until they are whole."""

    key = "simulated"
    _ROWS = re.compile(r"/v1/models/([^/]+)")
    _UPLOAD = re.compile(r"/v1/models/([^/]+)/upload")
    _HEARTBEAT = re.compile(r"/v1/agent/heartbeat/models/([^/]+)")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.models: dict[str, Model] = {}

    def answer(self, path: str, headers: Mapping[str, str], body: bytes, key: str) -> Told:
        """Does what is asked."""
        if key != self.key:
            return Told(401, {"message": "no such key"})
        if path == "/v1/auth":
            return Told(200, {"success": True})
        if path == "/v1/models":
            name = f"model{len(self.models) + 1}"
            self.models[name] = Model(msgspec.json.decode(body)["meta"]["name"])
            return Told(200, {"data": {"id": name}})
        if self._HEARTBEAT.fullmatch(path):
            return Told(200, {"data": {"agentId": "agent1"}})
        rows, upload = self._ROWS.fullmatch(path), self._UPLOAD.fullmatch(path)
        model = self.models.get(rows[1] if rows else upload[1] if upload else "")
        if model is None:
            return Told(404, {"message": "no such model"})
        if rows:
            for epoch, text in msgspec.json.decode(body)["metrics"].items():
                model.rows[int(epoch)] = msgspec.json.decode(text)
            return Told(200, {"message": "ok"})
        return self._take(model, headers["Content-Type"], body)

    def _take(self, model: Model, content_type: str, body: bytes) -> Told:
        receiver = Receiver(self.folder, content_type, len(body))
        try:
            receiver.write(body)
            received = receiver.finish()
            model.files[received.name] = received.part.read_bytes()
        except Problem as problem:
            return Told(problem.status, {"message": problem.message})
        finally:
            receiver.abandon()
        return Told(200, {"message": "ok"})
