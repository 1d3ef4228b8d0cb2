"""What happens on the pages that a test opens."""

from __future__ import annotations

from typing import Any

__all__ = ["Watched"]


class Watched:
    """What happened on the pages of a test. `forgiven`: parts of messages that the test means to bring about."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.requests: list[Any] = []
        self.dialogs: list[str] = []
        self.forgiven: list[str] = []

    def follow(self, page: Any) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.wrong.append(f"accident: {error}"))
        page.on("request", self._on_request)
        page.on("dialog", self._on_dialog)

    def _on_request(self, request: Any) -> None:
        self.requests.append(request)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def _on_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept()
