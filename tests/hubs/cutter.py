"""A wire on loopback that breaks: it hands on what is sent to a hub, and cuts the connection after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Cutter"]


class Cutter:
    """`budget`: how many more bytes of requests pass before the connection is cut; None: all. `passed` counts them."""

    def __init__(self, hub: str) -> None:
        parts = urlsplit(hub)
        self._hub = (parts.hostname or "", parts.port or 80)
        self.budget: int | None = None
        self.passed = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._begin(self._accept)

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(self._hub)
                self._open += [near, far]
                self._begin(self._carry, near, far, True)
                self._begin(self._carry, far, near, False)

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if counted and self.budget is not None:
                    data = data[: self.budget]
                    self.budget -= len(data)
                if counted:
                    self.passed += len(data)
                target.sendall(data)
                if counted and self.budget == 0:
                    break
        # The client loses its connection at once; what was handed on reaches the hub, which a reset would throw away there.
        for end, how in (
            (source, socket.SHUT_RDWR),
            (target, socket.SHUT_WR if counted else socket.SHUT_RDWR),
        ):
            with contextlib.suppress(OSError):
                end.shutdown(how)

    def close(self) -> None:
        for end in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._socket, *self._open):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
