"""A hub behind a proxy, under a path of it: every address that the hub gives leads back through the proxy."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from hub_client import Client, row

from hubstate.server import keys
from hubstate.server.running import RunningHub, running

PREFIX = "/lab/hub"
#: What a proxy does not hand on from the hub's answer.
HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


class Proxy:
    """What `handle_path` of Caddy, or `proxy_pass` with a path of nginx, does: it hands on what is below its path."""

    def __init__(self) -> None:
        self.behind = ""
        self.strays: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def hand_on(self) -> None:
                if not self.path.startswith(PREFIX + "/"):
                    proxy.strays.append(self.path)
                    self.send_error(404)
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                with requests.Session() as http:
                    http.trust_env = False
                    answer = http.request(
                        self.command,
                        proxy.behind + self.path.removeprefix(PREFIX),
                        data=body,
                        headers=headers | {"X-Forwarded-For": "192.0.2.7"},
                        allow_redirects=False,
                        timeout=30,
                    )
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in HOP | {"content-length"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_PATCH = do_PUT = hand_on  # noqa: N815 - as the library names them

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}{PREFIX}"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield proxy
    proxy.server.shutdown()
    thread.join()
    proxy.server.server_close()


@pytest.fixture
def key(data_dir: Path) -> str:
    return keys.create(data_dir, "mine")


@pytest.fixture
def hidden(data_dir: Path, proxy: Proxy, key: str) -> Iterator[RunningHub]:  # the key comes first
    """A hub that people know by the proxy's address."""
    with running(data_dir, public_url=proxy.url) as hub:
        proxy.behind = hub.url
        yield hub


@pytest.mark.usefixtures("hidden")
def test_a_training_speaks_through_a_proxy(proxy: Proxy, key: str) -> None:
    """Rows, files, uploads in parts and download addresses all go through the proxy's path and nowhere else."""
    client = Client(proxy.url, key)
    assert client.open().json()["hubstate"]["url"] == f"{proxy.url}/models/S1"
    assert client.rows([row(0, a=1)]).status_code == 200
    assert client.upload(b"weights").status_code == 200
    (file,) = client.model()["checkpoints"]
    assert file["url"].startswith(f"{proxy.url}/v1/files/")
    assert client.http.get(file["url"], timeout=30).content == b"weights"
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "3"}
    begun = client.http.post(f"{proxy.url}/v1/models/S1/uploads", headers=headers, timeout=30)
    assert begun.headers["Location"].startswith(f"{proxy.url}/v1/models/S1/uploads/")
    parts = {
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
    }
    assert (
        client.http.patch(begun.headers["Location"], data=b"abc", headers=parts, timeout=30).status_code
        == 204
    )
    assert proxy.strays == []
    client.http.close()


@pytest.mark.usefixtures("hidden")
def test_a_person_walks_through_a_proxy(proxy: Proxy, key: str) -> None:
    """From the first page over the login to a session and its parts, each link, form and redirect stays below the path."""
    Client(proxy.url, key).open()
    with requests.Session() as browser:
        browser.trust_env = False
        browser.headers["Accept"] = "text/html"
        first = browser.get(f"{proxy.url}/", timeout=30)
        assert urlsplit(first.url).path == f"{PREFIX}/login"
        (goal,) = re.findall(r'name="next" value="([^"]*)"', first.text)
        answer = browser.post(f"{proxy.url}/login", data={"key": key, "next": goal}, timeout=30)
        assert urlsplit(answer.url).path == f"{PREFIX}/"
        for path in ("/", "/models/S1", "/keys", "/docs"):
            page = browser.get(proxy.url + path, timeout=30)
            assert page.status_code == 200
            leads = re.findall(r'(?:href|src|action)="([^"#]*)"', page.text)
            assert leads
            assert [
                lead for lead in leads if lead.startswith("/") and not lead.startswith(f"{PREFIX}/")
            ] == []
            for asset in re.findall(r'(?:src|href)="([^"]*/static/[^"]*)"', page.text):
                assert browser.get(f"{proxy.url.removesuffix(PREFIX)}{asset}", timeout=30).status_code == 200
        origin = {"Origin": proxy.url.removesuffix(PREFIX)}
        stopped = browser.post(f"{proxy.url}/models/S1/stop", headers=origin, timeout=30)
        assert urlsplit(stopped.url).path == f"{PREFIX}/models/S1"
    assert proxy.strays == []


def test_a_proxy_is_not_taken_for_this_machine(hidden: RunningHub, proxy: Proxy, key: str) -> None:
    """What comes through the proxy comes from a loopback address, and needs a key all the same."""
    assert requests.get(f"{proxy.url}/metrics", timeout=30).status_code == 401
    assert requests.get(f"{proxy.url}/v1/models", timeout=30).status_code == 401
    assert requests.get(f"{hidden.url}/metrics", timeout=30).status_code == 401
    assert requests.get(f"{proxy.url}/metrics", headers={"x-api-key": key}, timeout=30).status_code == 200
