"""The demo: a real network learns real digits, and its session walks through every state but aborted.

It is written as any training with hubstate would be: `start`, `epochs`, `log`, `save` (see `_Demo.train`). What is
special is only what a person needs in order to believe it: a hub on this machine, unless one is named; a view of what
the journal tells; and a receipt that asks the hub what it holds.

In the demo's folder lie `sessions/` (the journals), `weights/` (the trainer's own files, one for each session) and
`hub/` (all that the embedded hub keeps). The embedded hub comes back at the same port where it can, so that the pages
of earlier runs keep their addresses.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import urlsplit

from hubstate import opening, settings
from hubstate.checkpoints import Checkpoint
from hubstate.clock import Clock, SystemClock
from hubstate.digits import BATCH, LAYERS, RATE, Network, load_digits
from hubstate.errors import HubError, StorageError, UsageError
from hubstate.hubs.held import held
from hubstate.limits import Limits
from hubstate.opening import Peek
from hubstate.progress import Show, Story
from hubstate.receipt import Receipt, receipt_of
from hubstate.session import Session, start
from hubstate.snapshots import digest
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["DATA_DIR", "EPOCHS", "NAME", "PORT", "run_demo"]

NAME = "digits"
EPOCHS = 15
DATA_DIR = Path(".hubstate-demo")
#: The port at which the embedded hub is put first; that of `hubstate serve`.
PORT = 8765
#: What the network reaches when it is trained as long as it is meant to be.
LEAST_ACCURACY = 0.9

#: Short, so that rows and checkpoints leave while a run of a few seconds goes on.
_LIMITS = Limits(metrics=0.3, checkpoint=1.0, heartbeat=5.0)
#: How a session remembers that it was begun with the embedded hub.
_EMBEDDED = "embedded"


def run_demo(
    *,
    epochs: int | None = None,
    hub: str | None = None,
    data_dir: Path = DATA_DIR,
    resume: bool = False,
    seed: int = 0,
    stay: bool = False,
    out: TextIO | None = None,
    pace: float = 0.15,
    patience: float = 30.0,
    port: int = PORT,
    clock: Clock | None = None,
) -> int:
    """Trains, delivers, and shows it. Returns 0 if all was learned and delivered, 3 for refused credentials, else 1.

    `epochs`: how many in all (default 15, or what a resumed session planned). `hub`: the address of a hub; else one
    is embedded, at `port` or, if that is taken, at another one. `resume`: goes on with the newest session in
    `data_dir` that is not done. `stay`: the embedded hub answers until Ctrl-C. `pace`: least seconds for an epoch, so
    that there is something to see. `patience`: how many seconds to wait at most for what is left at the end. `out`:
    where the words go (default: standard output).

    Raises `UsageError` for arguments that cannot be used, `StorageError` for a folder that cannot.
    """
    show = Show(sys.stdout if out is None else out)
    demo = _Demo(data_dir, show, SystemClock() if clock is None else clock, pace, patience)
    past = demo.past() if resume else None
    with demo.hub(_named(hub, past), port) as place:
        try:
            code = demo.run(past, place, epochs, seed)
        except KeyboardInterrupt:
            show.say(f"\nInterrupted. What was recorded is kept; go on with it: {demo.again()}")
            code, stay = 1, False
        if place.embedded and stay:
            _stay(show, place)
    if place.embedded:
        again = ["serve", "--data-dir", demo.hub_dir]
        if place.port != PORT:
            again += ["--port", place.port]
        show.say(f"\nOpen the hub's pages again: {_command(*again)}")
    return code


class _Place(NamedTuple):
    """Where the hub answers. `embedded`: this process runs it; `named`: a person named it."""

    address: str
    embedded: bool
    named: bool

    @property
    def port(self) -> int | None:
        return urlsplit(self.address).port


class _Past(NamedTuple):
    """An earlier session here, and what its journal tells."""

    seen: Peek
    story: Story

    @property
    def hub(self) -> str | None:
        """The hub that it was begun with; None for the embedded one."""
        begun_with = self.story.config.get("hub", _EMBEDDED)
        return None if begun_with == _EMBEDDED else str(begun_with)


@dataclass(frozen=True)
class _Demo:
    """One run: where it keeps things and where its words go. Least seconds for an epoch, most for the end."""

    data_dir: Path
    show: Show
    clock: Clock
    pace: float = 0.0
    patience: float = 30.0

    @property
    def sessions(self) -> Path:
        return self.data_dir / "sessions"

    @property
    def hub_dir(self) -> Path:
        return self.data_dir / "hub"

    def weights(self, session: str) -> Path:
        """The trainer's own file of a session."""
        return self.data_dir / "weights" / f"{session}.npz"

    def again(self) -> str:
        """The command that goes on with what was left."""
        return _command(
            "demo", "--resume", *([] if self.data_dir == DATA_DIR else ["--data-dir", self.data_dir])
        )

    # -- which session, and which hub ----------------------------------------------------------------------

    def past(self) -> _Past | None:
        """The session to go on with: the newest that is not done; if all are, the newest; None if there is none."""
        found: Peek | None = None
        for seen in opening.newest_of(self.sessions, NAME):
            if seen.owner is not None:
                continue  # a living process is at it
            if seen.memory.state is not State.DONE:
                found = seen
                break
            found = found or seen
        return None if found is None else _Past(found, Story(found.folder).read_on())

    @contextmanager
    def hub(self, named: str | None, port: int) -> Iterator[_Place]:
        """A hub while the block lasts: the named one, else the one that keeps its data here."""
        if named is not None:
            yield _Place(named, embedded=False, named=True)
            return
        # Whoever names a hub needs nothing of what a hub is made of.
        from hubstate.server.running import running  # noqa: PLC0415 - an extra

        known = self._known_to_embedded()
        address = None if known is None else known.memory.hub
        wanted = urlsplit(address or "").port or port
        with ExitStack() as stack:
            try:
                hub = stack.enter_context(running(self.hub_dir, port=wanted))
            except UsageError:  # something else answers at this port
                hub = stack.enter_context(running(self.hub_dir, port=0))
            except StorageError:
                if known is None or not _is_held(known):
                    raise
                # Another process runs this very hub, such as a demo whose page still stays.
                yield _Place(str(address), embedded=False, named=False)
                return
            yield _Place(hub.url, embedded=True, named=False)

    def _known_to_embedded(self) -> Peek | None:
        """The newest session that the embedded hub knows."""
        for seen in opening.newest_of(self.sessions, NAME):
            if seen.memory.hub is not None and _Past(seen, Story(seen.folder).read_on()).hub is None:
                return seen
        return None

    # -- the training --------------------------------------------------------------------------------------

    def run(self, past: _Past | None, place: _Place, epochs: int | None, seed: int) -> int:
        """Goes on with an earlier session or begins one, and tells what became of it."""
        layers = "-".join(str(width) for width in LAYERS)
        self.show.say(
            f"A network of {layers} units learns 1,797 handwritten digits (8x8 pixels, UCI).", "bold"
        )
        self.show.fact(
            "hub", place.address + (f", on this machine, in {self.hub_dir}" if place.embedded else "")
        )
        if past is not None and past.seen.memory.state is State.DONE:
            memory = past.seen.memory
            self.show.fact("session", f"{memory.session} is done already, and there is nothing to go on with")
            return self.tell(past.story, receipt_of(memory), place, memory.model)
        session, story = self.train(past, place, epochs, seed)
        model = opening.peek(self.sessions / session.id).memory.model
        return self.tell(story, session.receipt, place, model)

    def train(
        self, past: _Past | None, place: _Place, epochs: int | None, seed: int
    ) -> tuple[Session, Story]:
        """The training, from its beginning or its last checkpoint to the end of the session."""
        planned = EPOCHS if epochs is None else epochs
        if past is not None:
            seed = int(past.story.config.get("seed", seed))
            planned = (past.seen.memory.epochs or EPOCHS) if epochs is None else epochs
        config: dict[str, Any] = {"seed": seed, "lr": RATE, "batch": BATCH, "layers": LAYERS}
        config["hub"] = place.address if place.named else _EMBEDDED
        if past is not None and past.hub is None:
            config["hub"] = _EMBEDDED
        with start(
            NAME,
            hub=place.address,
            mode="on",
            epochs=planned,
            config=config,
            directory=self.sessions,
            limits=_LIMITS,
            resume=past is not None,
        ) as session:
            self.greet(session, past)
            story = Story(self.sessions / session.id)
            with self.show.live(story, planned, lambda: session.receipt):
                self.learn(session, story, planned, seed)
                session.finish(self.patience)
        return session, story.read_on()

    def greet(self, session: Session, past: _Past | None) -> None:
        checkpoint = session.last_checkpoint
        if past is None:
            what = f"new, in {self.sessions}"
        elif session.state is State.FINALIZING:
            what = "its training is over, what waits is delivered"
        elif checkpoint is None:
            what = f"attempt {session.receipt.attempt}, from the beginning"
        else:
            what = f"attempt {session.receipt.attempt}, from after epoch {checkpoint.epoch + 1}"
        self.show.fact("session", f"{session.id}, {what}")

    def learn(self, session: Session, story: Story, planned: int, seed: int) -> None:
        """Trains what is left of the epochs, and names the final checkpoint."""
        if session.state is State.FINALIZING:
            return
        learned, kept_apart = load_digits()
        path = self.weights(session.id)
        network = _network(session.last_checkpoint, path, seed)
        for _ in session.epochs():
            begun = self.clock.monotonic()
            loss = network.learn(learned)
            test_loss, accuracy = network.judge(kept_apart)
            session.log({"train/loss": loss, "test/loss": test_loss, "test/accuracy": accuracy})
            network.save(path)
            session.save(path, fitness=accuracy)
            self.show.epoch(story, planned, session.receipt)
            self.clock.wait(threading.Event(), self.pace - (self.clock.monotonic() - begun))
        if network.epochs:
            # The last one, and not the best: what is best was judged by digits that must not choose.
            session.save(path, epoch=network.epochs - 1, kind=CheckpointKind.FINAL.value)

    # -- what became of it ---------------------------------------------------------------------------------

    def tell(self, story: Story, receipt: Receipt, place: _Place, model: str | None) -> int:
        """The receipt, with what the hub itself says; returns the exit code."""
        self.show.say("\nReceipt", "bold")
        learned = self._tell_training(story, receipt)
        delivered = self._tell_deliveries(receipt)
        if delivered and model is not None:
            delivered = self._tell_hub(receipt, place.address, model)
        self.show.fact("states", self.show.path(story.states))
        if receipt.url:
            self.show.fact("page", receipt.url)
        if any(condition.name == "credentials_rejected" for condition in receipt.conditions):
            return 3
        return 0 if learned and delivered else 1

    def _tell_training(self, story: Story, receipt: Receipt) -> bool:
        row = story.row
        accuracy = None if row is None else row.metrics.get("test/accuracy")
        if row is None or accuracy is None:
            self.show.fact("training", f"{receipt.outcome.value}, and no epoch was trained", "red")
            return False
        trained = row.epoch + 1
        good = trained < EPOCHS or accuracy >= LEAST_ACCURACY
        text = f"{receipt.outcome.value} after {trained} epoch{'s'[: trained != 1]}; "
        text += f"{accuracy:.1%} of the test digits recognised"
        self.show.fact(
            "training", text if good else f"{text}, fewer than {LEAST_ACCURACY:.0%}", "" if good else "red"
        )
        return good and receipt.outcome in (Outcome.FINISHED, Outcome.STOPPED)

    def _tell_deliveries(self, receipt: Receipt) -> bool:
        done = receipt.state is State.DONE
        style = "green" if done else "yellow"
        taken = receipt.rows - receipt.rows_not_taken
        self.show.fact("rows", f"{receipt.rows_delivered} of {taken} delivered", style)
        files = receipt.files_delivered + receipt.files_waiting
        self.show.fact("checkpoints", f"{receipt.files_delivered} of {files} delivered", style)
        if not done:
            reasons = [c.reason for c in receipt.conditions if c.name not in ("online", "uploading")]
            why = "".join(f"; {reason}" for reason in reasons)
            self.show.fact(
                "kept here", f"{receipt.waiting} rows, files and words that no hub has yet{why}", "yellow"
            )
            self.show.fact("deliver by", self.again())
        return done

    def _tell_hub(self, receipt: Receipt, address: str, model: str) -> bool:
        """Asks the hub what it holds, and compares the final file with the trainer's own."""
        try:
            found = settings.resolve(hub=address)
            holds = held(address, found.api_key, model, found.mlflow)
        except HubError as trouble:
            self.show.fact("at the hub", str(trouble), "red")
            return False
        epochs = [row.epoch for row in holds.rows]
        once = epochs == list(range(len(epochs)))
        count = f"{len(epochs)} rows in force, "
        count += "each epoch once" if once else f"and not each epoch once: {epochs}"
        self.show.fact("at the hub", count, "green" if once else "red")
        at_hub = holds.sha256(CheckpointKind.FINAL.value)
        path = self.weights(receipt.session)
        here = path.is_file()
        same = at_hub == (digest(path) if here else receipt.final_sha256)
        self.show.fact("final file", str(path) if here else f"{path} (which is gone)")
        self.show.fact("sha256", at_hub or "none: the hub has no final file", "" if at_hub else "red")
        verdict = f"as the hub stored it, {'equal' if same else 'NOT EQUAL'} to "
        self.show.fact(
            "", verdict + ("the file here" if here else "what was sent"), "green" if same else "red"
        )
        return once and same


def _network(checkpoint: Checkpoint | None, path: Path, seed: int) -> Network:
    """The network as the last checkpoint has it, else a new one. Afterwards `path` holds what it goes on from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        return Network.new(seed)
    network = Network.load(checkpoint.path)
    if checkpoint.path != path.absolute():
        network.save(path)
    return network


def _named(hub: str | None, past: _Past | None) -> str | None:
    """The hub that a person named, now or when the session was begun; None for the embedded one."""
    if past is None:
        return hub
    belongs = past.seen.memory.hub
    if hub is not None and belongs is not None and hub.rstrip("/") != belongs:
        raise UsageError(
            f"the session {past.seen.memory.session} belongs to the hub {belongs}: leave --hub out to go on with it, "
            "or leave --resume out to begin a new one"
        )
    return hub or past.hub


def _is_held(seen: Peek) -> bool:
    """Whether a session's hub answers, and knows it."""
    address = str(seen.memory.hub)
    try:
        found = settings.for_hub(address, settings.resolve())
        held(address, found.api_key, str(seen.memory.model), found.mlflow)
    except HubError:
        return False
    return True


def _command(*words: object) -> str:
    """A command line for people to copy."""
    # The program as whoever reads this can call it: `scripts/demo` runs one that is on no path.
    called = Path(sys.argv[0])
    on_path = shutil.which("hubstate") is not None or called.name != "hubstate"
    return shlex.join(["hubstate" if on_path else os.path.relpath(called), *(str(word) for word in words)])


def _stay(show: Show, place: _Place) -> None:
    """Lets the embedded hub answer until Ctrl-C."""
    try:
        show.say(f"\nThe hub's page stays at {place.address} until Ctrl-C.", "bold")
        threading.Event().wait()
    except KeyboardInterrupt:
        return
