"""A small client that says to a hub what hubstate's own client and hub-sdk say."""

from __future__ import annotations

import hashlib
from typing import Any

import requests

__all__ = ["Client", "row"]


class Client:
    """Says to a hub what hubstate's own client says, in short words."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False
        if key is not None:
            self.http.headers["x-api-key"] = key

    def post(self, path: str, body: Any = None, key: str | None = None, **more: Any) -> requests.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post(self.url + path, json=body, headers=headers, timeout=30, **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.http.get(self.url + path, timeout=30, **more)

    def open(
        self, model: str = "S1", attempt: int = 1, first_epoch: int = 0, **more: Any
    ) -> requests.Response:
        key = more.pop("key", None)
        told = {"id": model, "attempt": attempt, "first_epoch": first_epoch, "name": "digits", **more}
        return self.post("/v1/models", {"meta": {"name": "digits"}, "hubstate": told}, key)

    def rows(
        self, rows: list[dict[str, Any]], model: str = "S1", key: str | None = None
    ) -> requests.Response:
        return self.post(f"/v1/models/{model}", {"type": "metrics", "metrics": rows}, key)

    def beat(self, model: str = "S1", **told: Any) -> requests.Response:
        body: dict[str, Any] = {"agent": "test", "agentId": None}
        if told:
            body["hubstate"] = {"attempt": 1, **told}
        return self.post(f"/v1/agent/heartbeat/models/{model}", body)

    def end(self, model: str = "S1", key: str | None = None, **told: Any) -> requests.Response:
        body = {"attempt": 1, "state": "done", "outcome": "finished", "reason": "", "rows": 0, **told}
        return self.post(f"/v1/models/{model}/end", body, key)

    def upload(
        self,
        data: bytes,
        model: str = "S1",
        *,
        key: str | None = None,
        digest: str | None = None,
        **fields: Any,
    ) -> requests.Response:
        """An upload as hubstate's client sends it; `sha256=None` leaves that field out."""
        form = {
            "epoch": 0,
            "type": "epoch",
            "kind": "last",
            "attempt": 1,
            "sha256": hashlib.sha256(data).hexdigest(),
            **fields,
        }
        name = "best.pt" if form["type"] == "final" else "last.pt"
        headers = {"Idempotency-Key": key} if key else {}
        if digest is not None:
            headers["Repr-Digest"] = digest
        return self.http.post(
            f"{self.url}/v1/models/{model}/upload",
            data={name: value for name, value in form.items() if value is not None},
            files={name: data},
            headers=headers,
            timeout=30,
        )

    def foreign(self, name: str = "yolo11n.pt") -> str:
        """A session as hub-sdk creates it."""
        body = {
            "config": {"batchSize": 16, "epochs": 5, "imageSize": 640, "patience": 100, "device": "None"},
            "dataset": {"name": "coco8.yaml"},
            "lineage": {"architecture": {"name": "yolo11n"}, "parent": {"name": "yolo11n.pt"}},
            "meta": {"name": name},
        }
        return str(self.post("/v1/models", body).json()["data"]["id"])

    def foreign_upload(self, model: str, data: bytes, **fields: Any) -> requests.Response:
        """An upload as hub-sdk sends it."""
        name = "best.pt" if fields.get("type") == "final" else "last.pt"
        url = f"{self.url}/v1/models/{model}/upload"
        return self.http.post(url, data=fields, files={name: data}, timeout=30)

    def model(self, model: str = "S1") -> dict[str, Any]:
        answer = self.get(f"/v1/models/{model}")
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def metrics(self, model: str = "S1", attempt: str = "") -> list[dict[str, Any]]:
        answer = self.get(f"/v1/models/{model}/metrics", params={"attempt": attempt} if attempt else {})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows


def row(epoch: int, attempt: int = 1, at: float = 1.0, **metrics: Any) -> dict[str, Any]:
    """A row as hubstate's client sends it."""
    return {
        "epoch": epoch,
        "step": None,
        "attempt": attempt,
        "final": False,
        "at": at,
        "metrics": metrics,
    }
