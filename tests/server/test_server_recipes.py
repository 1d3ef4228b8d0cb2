"""The recipes for proxies in docs/hub.md, run as they stand there by the programs that they are for, with TLS.

What is changed of a recipe: the name and the port that people see, the certificate, and the hub's port. Where Caddy or nginx is
not installed, its recipes are skipped.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from hub_client import Client, row

import hubstate
from hubstate.server import keys
from hubstate.server.running import RunningHub, running

ROOT = Path(__file__).parents[2]
#: A certificate for localhost, and its key.
PEM = ROOT / "tests/hubs/loopback.pem"
#: More than a proxy takes, or keeps in memory, unless its recipe says so.
BIG = 24 * 1024 * 1024
_BLOCK = re.compile(r"^```(caddyfile|nginx)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: What each program says once it listens.
_READY = {"caddy": "serving initial configuration", "nginx": "start worker process "}
_TUS = {"Tus-Resumable": "1.0.0"}


class Recipe(NamedTuple):
    """A recipe as it is printed, and the path under which it puts the hub."""

    program: str
    text: str
    path: str

    def __str__(self) -> str:
        return f"{self.program}{'-path' if self.path else ''}"


def recipes() -> list[Recipe]:
    """Those of the page."""
    page = (ROOT / "docs/hub.md").read_text(encoding="utf-8")
    return [
        Recipe(language.removesuffix("file"), text, "/hub" if "/hub/" in text else "")
        for language, text in _BLOCK.findall(page)
    ]


class Proxy:
    """A program that runs a recipe. `url`: where people reach the hub; `site`: that address without a path."""

    def __init__(self, recipe: Recipe, folder: Path, port: int) -> None:
        self.program = recipe.program
        self.url = f"https://localhost:{port}{recipe.path}"
        self.site = f"https://localhost:{port}"
        self.said: list[str] = []
        self._folder = folder
        self._text = re.sub(r"(lab|hub)\.example(?= \{)", f"localhost:{port}", recipe.text)
        self._port = port

    def configure(self, hub_port: int) -> list[str]:
        """Writes the configuration, and gives the command that runs it."""
        text = self._text.replace("127.0.0.1:8765", f"127.0.0.1:{hub_port}")
        file = self._folder / "configuration"
        if self.program == "caddy":
            text = text.replace(" {\n", f" {{\ntls {PEM} {PEM}\n", 1)
            file.write_text(
                f"{{\nadmin off\nstorage file_system {self._folder}\nauto_https disable_redirects\n"
                f"default_bind 127.0.0.1\nservers {{\nprotocols h1 h2\n}}\n}}\n{text}"
            )
            return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]
        if "server {" not in text:
            text = f"server {{\nlisten 443 ssl;\nserver_name lab.example;\n{text}}}\n"
        text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{self._port} ssl reuseport")
        text = re.sub(r"server_name [^;]*", "server_name localhost", text)
        text = re.sub(r"ssl_certificate(_key)? [^;]*;", "", text)
        places = "".join(
            f"{kind}_temp_path {kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        who = ""
        if os.geteuid() == 0:  # else its workers become somebody else, who may not look into a test's folder
            who = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};\n"
        file.write_text(
            f"{who}daemon off;\npid pid;\nerror_log stderr notice;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{places}ssl_certificate {PEM};\nssl_certificate_key {PEM};\n{text}}}\n"
        )
        return ["nginx", "-e", "stderr", "-p", str(self._folder), "-c", str(file)]

    @contextmanager
    def behind_it(self, hub: RunningHub) -> Iterator[None]:
        """Runs it before a hub while the block lasts."""
        command = self.configure(hub.port)
        home = {"HOME": str(self._folder), "XDG_DATA_HOME": str(self._folder)}
        ready = threading.Event()
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=self._folder, env={**os.environ, **home}
        )

        def listen() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                self.said.append(line)
                if _READY[self.program] in line:
                    ready.set()
            ready.set()

        listener = threading.Thread(target=listen)
        with process:
            listener.start()
            try:
                assert ready.wait(60)
                assert process.poll() is None, "".join(self.said)
                yield
            finally:
                process.terminate()
                process.wait(60)
                listener.join()


@contextmanager
def reserved() -> Iterator[int]:
    """A port that is the test's own: whoever else shares it has to say so, as these programs do."""
    with closing(socket.socket()) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(params=recipes(), ids=str)
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    recipe: Recipe = request.param
    if shutil.which(recipe.program) is None:
        pytest.skip(f"{recipe.program} is not installed")
    folder = tmp_path / "proxy"
    folder.mkdir()
    with reserved() as port:
        yield Proxy(recipe, folder, port)


@pytest.fixture
def key(data_dir: Path) -> str:
    return keys.create(data_dir, "mine")


@pytest.fixture
def hidden(data_dir: Path, proxy: Proxy, key: str) -> Iterator[RunningHub]:  # the key comes first
    """A hub that people know by the proxy's address; what the proxy said of trouble is none."""
    with running(data_dir, public_url=proxy.url) as hub, proxy.behind_it(hub):
        yield hub
    assert [line for line in proxy.said if re.search(r"\[(warn|error|crit|alert|emerg)\]", line)] == []


@pytest.fixture
def client(proxy: Proxy, key: str) -> Iterator[Client]:
    client = Client(proxy.url, key)
    client.http.verify = str(PEM)
    yield client
    client.http.close()


def test_the_page_has_every_recipe() -> None:
    """Each of the two programs has a recipe for a name of its own, and one for a path of a bigger site."""
    assert sorted(map(str, recipes())) == ["caddy", "caddy-path", "nginx", "nginx-path"]


@pytest.mark.usefixtures("hidden")
def test_big_files_pass_unbuffered(proxy: Proxy, client: Client) -> None:
    """A file of many megabytes comes and goes whole, and the proxy keeps none of it on its disk."""
    data = os.urandom(BIG)
    assert client.open().status_code == 200
    assert client.upload(data).status_code == 200
    (file,) = client.model()["checkpoints"]
    assert file["url"].startswith(f"{proxy.url}/v1/files/")
    assert client.http.get(file["url"], timeout=60).content == data
    part = client.http.get(file["url"], headers={"Range": "bytes=5-9"}, timeout=60)
    assert (part.status_code, part.content) == (206, data[5:10])


@pytest.mark.usefixtures("hidden")
def test_an_upload_in_parts_goes_on(proxy: Proxy, client: Client) -> None:
    """The address of an upload in parts is the proxy's, and it tells where to go on."""
    client.open()
    begun = client.http.post(
        f"{proxy.url}/v1/models/S1/uploads", headers={**_TUS, "Upload-Length": "6"}, timeout=30
    )
    where = begun.headers["Location"]
    assert where.startswith(f"{proxy.url}/v1/models/S1/uploads/")
    for at, part in ((0, b"abc"), (3, b"def")):
        assert client.http.head(where, headers=_TUS, timeout=30).headers["Upload-Offset"] == str(at)
        told = {**_TUS, "Upload-Offset": str(at), "Content-Type": "application/offset+octet-stream"}
        assert client.http.patch(where, data=part, headers=told, timeout=30).status_code == 204


@pytest.mark.usefixtures("hidden")
def test_a_person_sees_a_training_live(proxy: Proxy, client: Client, key: str) -> None:
    """From the site's path over the login to a page: all of it lies below the path, and news come when they happen."""
    client.open(epochs=9)
    with requests.Session() as browser:
        browser.trust_env = False
        browser.verify = str(PEM)
        browser.headers["Accept"] = "text/html"
        first = browser.get(proxy.url, timeout=30)
        assert first.url.startswith(f"{proxy.url}/login")
        origin = {"Origin": proxy.site}
        answer = browser.post(f"{proxy.url}/login", data={"key": key}, headers=origin, timeout=30)
        assert answer.url == f"{proxy.url}/"
        page = browser.get(f"{proxy.url}/models/S1", timeout=30)
        leads = re.findall(r'(?:href|src|action)="(/[^"#]*)"', page.text)
        assert leads
        assert [lead for lead in leads if not lead.startswith(f"{urlsplit(proxy.url).path}/")] == []
        for asset in {lead for lead in leads if "/static/" in lead}:
            assert browser.get(proxy.site + asset, timeout=30).status_code == 200
        with browser.get(f"{proxy.url}/models/S1/events", stream=True, timeout=60) as stream:
            lines = stream.iter_lines(chunk_size=1, decode_unicode=True)
            assert next(lines) == "retry: 1000"
            while "data" not in next(lines):  # the page as it is
                pass
            client.rows([row(0, loss=0.5)])
            while '"curves"' not in next(lines):
                pass
        stopped = browser.post(f"{proxy.url}/models/S1/stop", headers=origin, timeout=30)
        assert stopped.url == f"{proxy.url}/models/S1"
        assert client.beat(waiting=0).json()["hubstate"]["stop"]


@pytest.mark.usefixtures("hidden")
def test_nothing_is_open_through_it(proxy: Proxy, client: Client) -> None:
    """The hub's numbers and its sessions want a key also through a proxy on the hub's own machine; its health does not."""
    with requests.Session() as anybody:
        anybody.trust_env = False
        anybody.verify = str(PEM)
        assert anybody.get(f"{proxy.url}/metrics", timeout=30).status_code == 401
        assert anybody.get(f"{proxy.url}/v1/models", timeout=30).status_code == 401
        assert anybody.get(f"{proxy.url}/healthz", timeout=30).status_code == 200
    assert client.get("/metrics").status_code == 200


@pytest.mark.usefixtures("hidden")
def test_a_training_is_delivered(
    proxy: Proxy, client: Client, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is told the proxy's address is delivered through it, file and all, and `doctor` finds nothing wrong."""
    monkeypatch.setenv("HUBSTATE_HUB", proxy.url)
    monkeypatch.setenv("HUBSTATE_API_KEY", key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(PEM))
    Path("last.pt").write_bytes(os.urandom(BIG))
    with hubstate.start("digits", epochs=1) as session:
        for epoch in session.epochs():
            session.log({"loss": 1 / (1 + epoch)})
            session.save("last.pt", fitness=1)
        receipt = session.finish(60)
    assert receipt.state is hubstate.State.DONE
    told = client.model(session.id)
    assert told["summary"] == "finished, delivered 1 of 1"
    assert told["url"] == session.url == f"{proxy.url}/models/{session.id}"
    done = subprocess.run(
        [sys.executable, "-m", "hubstate", "doctor"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the hub is there and accepts the key" in done.stdout
