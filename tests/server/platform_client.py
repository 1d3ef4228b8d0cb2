"""Says to a hub what Ultralytics' Platform callback says, in the bodies that a recorded run had."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import requests
from hub_client import Client

__all__ = ["Callback", "weights"]

STARTED = {
    "trainArgs": {
        "model": "yolo11n.pt", "data": "coco8.yaml", "epochs": "3", "batch": "16", "imgsz": "640",
        "patience": "100", "device": "cpu", "cache": "False", "project": "u/p", "name": "train",
    },
    "epochs": 3,
    "device": "cpu",
    "environment": {
        "ultralyticsVersion": "8.4.190", "hostname": "secret-host", "os": "Linux", "environment": "Docker",
        "pythonVersion": "3.11.7", "pythonExecutable": "secret/bin/python", "cpuCount": 2, "cpu": "x",
        "command": "train.py --secret", "totalRamGb": 8.0, "totalDiskGb": 9.5, "gitRepository": "git@secret",
        "gitBranch": "main", "gitCommit": "0123456789ab", "gitCommitMessage": "a secret",
    },
    "system": {"cpu": 12.5, "ram": 40.0, "disk": [{"mount": "/", "used_gb": 2.0, "total_gb": 9.0}], "gpus": {}},
}  # fmt: skip


def weights(fill: bytes = b"w", size: int = 20_000) -> bytes:
    """A file such as PyTorch writes: a zip archive whose members are stored."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        # Without a date of its own a member has the present one, and no two such files are alike.
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), fill * size)
        archive.writestr(zipfile.ZipInfo("archive/version"), "3")
    return file.getvalue()


class Callback:
    """One run. `project` and `name` are as the callback sends them."""

    def __init__(self, client: Client, project: str = "u/p", name: str = "train") -> None:
        self.client = client
        self.project = project
        self.name = name
        self.model = ""
        self.run = 0

    def say(self, event: str, data: Any = None, **identity: Any) -> requests.Response:
        """One event; every one but the first carries the model's id."""
        who = identity or {"modelId": self.model}
        body = {"event": event, "data": {} if data is None else data, **who}
        return self.client.post("/api/webhooks/training/metrics", body)

    def start(self, model: str | None = None, **more: Any) -> dict[str, Any]:
        """Starts the run, or the next run of `model`."""
        who = {"modelId": model} if model else {"project": self.project, "name": self.name}
        answer = self.say("training_started", {**STARTED, **more}, **who)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        self.model, self.run = told["modelId"], told["runId"]
        return told

    def epoch(self, epoch: int, *, final: bool = False, **metrics: Any) -> requests.Response:
        """The end of an epoch; `final`: the evaluation behind the last one."""
        losses = {"train/box_loss": 1.5} if final else {"train/box_loss": 1.5, "val/box_loss": 2.5}
        measured = {"metrics": {**losses, **metrics}, "system": None, "fitness": 0.5, "best_fitness": 0.5}
        return self.say("epoch_end", {"epoch": epoch, **measured})

    def address(self, filename: str = "best.pt", **more: Any) -> dict[str, Any]:
        """Asks where a file may be put."""
        body = {"filename": filename, "modelId": self.model, "runId": self.run, **more}
        answer = self.client.post("/api/webhooks/models/upload", body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def put(self, address: dict[str, Any], data: bytes) -> requests.Response:
        """Puts the bytes there, without a key."""
        headers = {"Content-Type": "application/octet-stream"}
        with requests.Session() as http:
            http.trust_env = False
            return http.put(address["uploadUrl"], data=data, headers=headers, timeout=30)

    def saved(self, address: dict[str, Any], **more: Any) -> requests.Response:
        """Says that the bytes count."""
        told = {"modelPath": address["gcsPath"], "runId": self.run, "uploadPath": address["uploadPath"]}
        return self.say("checkpoint_saved", {**told, **more})

    def upload(self, data: bytes, filename: str = "best.pt") -> dict[str, Any]:
        """All three steps, each of which the hub takes."""
        address = self.address(filename)
        assert self.put(address, data).status_code == 200
        assert self.saved(address).status_code == 200
        return address

    def complete(self, path: str | None = None, **results: Any) -> requests.Response:
        """The end; `path`: of the file that was uploaded."""
        artifact = {} if path is None else {"modelPath": path, "modelSize": 100}
        told = {
            "metrics": {"m": 0.5, "fitness": 0.5},
            "bestEpoch": 1,
            "bestFitness": 0.5,
            **artifact,
            **results,
        }
        return self.say(
            "training_complete", {"results": told, "classNames": ["a"], "plots": [], "runId": self.run}
        )

    def look(self) -> dict[str, Any]:
        """What the hub tells of the model."""
        return self.client.model(self.model)

    def said(self, event: str = "") -> list[dict[str, Any]]:
        """What it keeps of what was said beside rows and files."""
        answer = self.client.get(f"/v1/models/{self.model}/said", params={"event": event} if event else {})
        assert answer.status_code == 200, answer.text
        told: list[dict[str, Any]] = answer.json()["data"]
        return told
