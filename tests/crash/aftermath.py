"""What must be found after a small run was killed, gone on with, and delivered: everything, once, and unmixed."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import small_run
from killer import Killer

from hubstate.exchange import Rows
from hubstate.hubs.held import Held, held
from hubstate.index import sessions_in
from hubstate.opening import find, newest_of, peek
from hubstate.proof.holdings import compare
from hubstate.states import State

__all__ = ["Aftermath"]


class Aftermath:
    """One training in one folder, at one hub that lives on: killed as often as wanted, then brought to its end."""

    def __init__(self, killer: Killer, folder: Path, hub: str) -> None:
        self._killer = killer
        self._folder = folder
        self._hub = hub
        self._told: list[list[Any]] = []
        self._deaths = 0
        folder.mkdir()

    @property
    def over(self) -> bool:
        """Whether a session is done: to train again would be to begin another one."""
        seen = newest_of(self._folder / "sessions", small_run.NAME)
        return any(one.memory.state is State.DONE for one in seen)

    def run(self, what: str, **how: Any) -> dict[str, Any]:
        """One run, which may be killed. `train` goes on where the one before stopped."""
        answer = self._killer.run(what, self._folder, self._hub, **how)
        self._told += answer["told"]
        self._deaths += answer["killed"]
        return answer

    def matters(self, word: str) -> list[Any]:
        """What the runs told by this word, in order."""
        return [matter for told, matter in self._told if told == word]

    def check_synced(self) -> None:
        """Delivers by `hubstate sync`; then the hub holds all that was acknowledged and counts, and nothing else."""
        self.run("sync")
        code, said = self.matters("synced")[-1]
        assert code == 0, said
        if self.matters("started"):
            self._check(self._held())

    def check_finished(self) -> None:
        """Goes on with the training to its end; then the hub holds every row of it once, and one final file."""
        if not self.over:
            self.run("train")
        assert self.over
        holds = self._held()
        self._check(holds)
        assert [(row.epoch, row.step) for row in holds.rows] == small_run.places()
        assert [file.epoch for file in holds.files if file.kind == "final"] == [small_run.FINAL]
        assert (holds.state, holds.outcome) == ("done", "finished")

    def remove(self) -> None:
        """Removes the folder. A session that never began leaves at most its lock and a piece of a line."""
        sessions = self._folder / "sessions"
        for never_begun in set(sessions.iterdir()) - {sessions / ".gitignore", *sessions_in(sessions)}:
            for file in never_begun.iterdir():
                assert file.name in ("owner.lock", "journal-000001.jsonl")
                file.unlink()
        shutil.rmtree(self._folder)

    def _session(self) -> Path:
        # Whoever was killed before it heard of its session may have left one that nobody goes on with.
        (session,) = {session for session, _ in self.matters("started")}
        return find(self._folder / "sessions", session)

    def _held(self) -> Held:
        return held(self._hub, None, self._session().name)

    def _check(self, holds: Held) -> None:
        """No acknowledged row is lost here, and at the hub nothing is there twice, changed, or mixed of two files."""
        acknowledged = {tuple(place) for place in self.matters("logged")}
        with Rows(self._session(), every=True) as rows:
            kept = Counter((row.epoch, row.step, row.attempt) for row in rows)
        assert not acknowledged - kept.keys(), "rows that were acknowledged are lost"
        assert kept.total() == len(kept), "rows were recorded twice"
        assert len(kept.keys() - acknowledged) <= self._deaths, "rows were recorded that nobody logged"
        assert len({(row.epoch, row.step) for row in holds.rows}) == len(holds.rows), "rows are doubled"
        for row in holds.rows:
            assert row.metrics == small_run.row(row.epoch, row.step)
        whole = small_run.files(peek(self._session()).memory.attempt)
        for file in holds.files:
            assert whole.get(file.sha256) == file.epoch, f"the {file.kind} file is none that was saved"
        assert len({file.kind for file in holds.files}) == len(holds.files)
        # What the journal tells to be in force, the hub holds, number by number and file by file; and no more.
        comparison = compare(self._session(), holds)
        assert comparison.equal, str(comparison)
