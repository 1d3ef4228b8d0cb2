"""Taking a session out as rows or whole, and forgetting one: exact, streamed, and never half."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import os
import pty
import subprocess
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from children import HANGS, PYTHON, ended
from fakes import door_in, train
from journals import DAMAGED

import hubstate
from hubstate import events as ev
from hubstate import exchange
from hubstate.errors import SessionBusy, StorageError, UsageError
from hubstate.exchange import Rows, as_csv, as_jsonl, destination, forget, hindrance, write_archive
from hubstate.index import Index, sessions_in
from hubstate.overview import Unreadable, look, look_at_all
from hubstate.server.running import running

EXPORT = [PYTHON, "-m", "hubstate", "export"]
FORGET = [PYTHON, "-m", "hubstate", "forget"]
NOW = 1_800_000_000.0


def the_index() -> Index:
    return Index(Path(os.environ["XDG_DATA_HOME"], "hubstate", "sessions"))


def eventful(**start: Any) -> hubstate.Session:
    """Two attempts with steps, merged rows, odd values, a kept file, and epochs that the second attempt replaced."""
    weights = Path("last.pt")
    weights.write_bytes(b"weights")
    session = hubstate.start("digits", epochs=6, **start)
    for epoch in range(4):
        session.log({"step/loss": epoch / 3}, epoch=epoch, step=10 * epoch)
        session.log({"step/loss": 0.25}, epoch=epoch, step=10 * epoch + 5)
        session.log({"loss": 1 / (epoch + 1), "odd": [math.nan, math.inf, -math.inf, 1][epoch]}, epoch=epoch)
        session.log({"odd, too": epoch}, epoch=epoch)
        if epoch == 1:
            session.save(weights, epoch=epoch)
    weights.write_bytes(b"torn since")
    session.close()
    session = hubstate.start("digits", resume=True, **start)
    session.log({"odd": 2.5}, epoch=1)
    session.log({"odd": math.nan}, epoch=1)
    for epoch in session.epochs(2):
        session.log({"loss": 7.0}, epoch=epoch)
        if epoch == 4:
            break
    session.tell(ev.FitEpochEnd, 4, {"loss": 0.125}, {}, True)
    return session


def folder_of(session: hubstate.Session) -> Path:
    return Path(".hubstate", session.id)


def lines(folder: Path, **options: Any) -> list[dict[str, Any]]:
    with Rows(folder, **options) as rows:
        return [json.loads(line) for line in b"".join(as_jsonl(rows)).splitlines()]


# -- which rows ------------------------------------------------------------------------------------------


def test_the_rows_are_those_that_the_hub_has_in_force(tmp_path):
    """What is exported is what the hub shows of the same session: every row, value and order, NaN included."""
    with running(tmp_path / "hub") as hub:
        session = eventful(hub=hub.url)
        session.finish()
        address = f"{hub.url}/v1/models/{session.id}/metrics"
        in_force = requests.get(address, timeout=30).json()["data"]
        every = requests.get(address, params={"attempt": "all"}, timeout=30).json()["data"]
    assert len(in_force) == 10
    assert lines(folder_of(session)) == in_force
    assert len(every) == 22
    assert sorted(map(json.dumps, lines(folder_of(session), every=True))) == sorted(
        map(json.dumps, in_order(every))
    )


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same fields in the order in which an export writes them."""
    names = ("epoch", "step", "attempt", "final", "at", "metrics", "nonfinite", "in_force")
    return [{name: row[name] for name in names if name in row} for row in rows]


def test_rows_of_a_later_attempt_replace_and_rows_of_one_attempt_merge():
    """Below the later attempt's first epoch the older rows count, from it on none; the later value of a name wins."""
    session = eventful(mode="offline")
    session.close()
    told = [(row["epoch"], row["step"], row["attempt"], row["final"]) for row in lines(folder_of(session))]
    assert told == [
        (0, 0, 1, False),
        (0, 5, 1, False),
        (0, None, 1, False),
        (1, 10, 1, False),
        (1, 15, 1, False),
        (1, None, 2, False),
        (2, None, 2, False),
        (3, None, 2, False),
        (4, None, 2, False),
        (4, None, 2, True),
    ]
    first = lines(folder_of(session))[2]
    assert first["metrics"] == {"loss": 1.0, "odd": None, "odd, too": 0}
    assert first["nonfinite"] == {"odd": "NaN"}
    again = lines(folder_of(session))[5]
    assert (again["metrics"], again["nonfinite"]) == ({"odd": None}, {"odd": "NaN"})


def test_a_value_that_replaces_an_odd_one_is_odd_no_more(tmp_path):
    """A number that was logged after a NaN of the same name and epoch is the number."""
    door = train(door_in(tmp_path))
    door.tell(ev.FitEpochEnd, 0, {"a": None, "b": None}, {"a": "NaN", "b": "Infinity"})
    door.tell(ev.FitEpochEnd, 0, {"a": 1.5}, {})
    door.close()
    (row,) = lines(tmp_path)
    assert (row["metrics"], row["nonfinite"]) == ({"a": 1.5, "b": None}, {"b": "Infinity"})


def test_every_row_tells_whether_it_is_in_force():
    """With `every` each row comes as it was recorded, and says whether it still counts."""
    session = eventful(mode="offline")
    session.close()
    rows = lines(folder_of(session), every=True)
    assert len(rows) == session.receipt.rows == 22
    assert {(row["epoch"], row["attempt"]) for row in rows if not row["in_force"]} == {(1, 1), (2, 1), (3, 1)}
    assert all(row["in_force"] for row in rows if row["attempt"] == 2)
    assert any(row["in_force"] for row in rows if (row["epoch"], row["attempt"]) == (1, 1))


def test_csv_is_exact():
    """Every number comes back bit by bit, NaN and infinities as themselves, and what a row has not is empty."""
    session = eventful(mode="offline")
    session.close()
    with Rows(folder_of(session)) as rows:
        table = list(csv.DictReader(io.StringIO(b"".join(as_csv(rows)).decode())))
    assert list(table[0]) == [
        *("epoch", "step", "attempt", "final", "at"),
        *("step/loss", "loss", "odd", "odd, too"),
    ]
    for row, exact in zip(table, lines(folder_of(session)), strict=True):
        values = exact["metrics"] | exact.get("nonfinite", {})
        for name in ("step/loss", "loss", "odd", "odd, too"):
            wanted = values.get(name)
            assert (row[name] == "") == (wanted is None)
            if wanted is not None:
                assert float(row[name]) == float(wanted) or math.isnan(float(wanted)) == math.isnan(
                    float(row[name])
                )
        assert (float(row["at"]), row["final"]) == (exact["at"], str(exact["final"]).lower())
        assert row["step"] == ("" if exact["step"] is None else str(exact["step"]))
    assert {row["odd"] for row in table} >= {"NaN"}


def test_a_metric_that_is_called_as_a_column_is_no_second_one(tmp_path):
    """A trainer that logs `epoch` as a metric gets a column of its own for it."""
    door = train(door_in(tmp_path))
    door.tell(ev.FitEpochEnd, 3, {"epoch": 2.5, "loss": 1.0})
    door.close()
    with Rows(tmp_path) as rows:
        assert b"".join(as_csv(rows)).decode().splitlines()[0] == (
            "epoch,step,attempt,final,at,metrics/epoch,loss"
        )


def test_a_session_without_rows_is_a_head_line(tmp_path):
    """Nothing was measured: CSV has its head, JSON lines have no line."""
    train(door_in(tmp_path)).close()
    with Rows(tmp_path) as rows:
        assert b"".join(as_csv(rows)) == b"epoch,step,attempt,final,at\n"
        assert b"".join(as_jsonl(rows)) == b""


@DAMAGED
def test_damaged_lines_are_told(tmp_path):
    """A row whose line is damaged is missing, and the damage is there to be told."""
    door = train(door_in(tmp_path))
    for epoch in range(3):
        door.tell(ev.FitEpochEnd, epoch, {"loss": float(epoch)})
    door.close()
    (segment,) = tmp_path.glob("journal-*")
    segment.write_bytes(segment.read_bytes().replace(b'"loss":1.0', b'"loss":9.0'))
    with Rows(tmp_path) as rows:
        assert [row.epoch for row in rows] == [0, 2]
        assert len(rows.damages) == 1


def test_many_rows_take_no_more_memory_than_few(tmp_path):
    """Rows are sorted in a file and handed out block by block: twenty times as many take the same memory."""

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        door = train(door_in(folder))
        for epoch in range(count):
            door.tell(ev.TrainBatchEnd, 0, epoch, {"loss": 1.0, "accuracy": 0.5})
        door.close()
        tracemalloc.start()
        with Rows(folder) as rows:
            total = sum(len(block) for form in (as_csv, as_jsonl) for block in form(rows))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total > 100 * count
        return most

    assert peak(20_000) < 1.5 * peak(1_000) + 500_000


def test_whoever_waits_is_told_how_far_it_is(tmp_path):
    """The number of lines that were read comes now and then."""
    door = train(door_in(tmp_path))
    for epoch in range(10_000):
        door.tell(ev.TrainBatchEnd, 0, epoch, {"loss": 1.0})
    door.close()
    told: list[int] = []
    Rows(tmp_path, watch=told.append).close()
    assert told == [10_000]


# -- whole -----------------------------------------------------------------------------------------------


def archived(folder: Path, **options: Any) -> zipfile.ZipFile:
    out = io.BytesIO()
    with Rows(folder, **options) as rows:
        write_archive(folder, rows, out, NOW)
    return zipfile.ZipFile(out)


@pytest.mark.promise("C14")
def test_an_archive_is_whole_and_proves_itself():
    """Rows, journal and kept files are in it as they are here, and SHA256SUMS names the digest of each."""
    session = eventful(mode="offline")
    session.close()
    folder = folder_of(session)
    archive = archived(folder)
    assert archive.testzip() is None
    held = {name.removeprefix(f"{session.id}/"): archive.read(name) for name in archive.namelist()}
    sums = dict(reversed(line.split("  ")) for line in held.pop("SHA256SUMS").decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in held.items()}
    for name in ("journal", "checkpoints"):
        here = folder if name == "journal" else folder / "snapshots"
        wanted = {f"{name}/{file.name}": file.read_bytes() for file in here.iterdir() if file.is_file()}
        assert {key: value for key, value in held.items() if key.startswith(f"{name}/")} == {
            key: value for key, value in wanted.items() if "checkpoints" in key or "journal-" in key
        }
    assert held["checkpoints/last-000001-1-1.pt"] == b"weights"
    assert [json.loads(line) for line in held["rows.jsonl"].splitlines()] == lines(folder)
    assert held["rows.csv"].count(b"\n") == 11
    described = json.loads(held["session.json"])
    assert (described["id"], described["rows"], described["attempt"]) == (session.id, 22, 2)
    assert str(Path.cwd()).encode() not in held["session.json"] + held["README.txt"]
    assert f"digits ({session.id})" in held["README.txt"].decode()


def test_a_kept_folder_is_in_the_archive_with_all_its_files():
    """A checkpoint that is a folder is taken out as the folder it is, hidden files in it included."""
    shards = Path("shards")
    (shards / "deep").mkdir(parents=True)
    for name in ("one.bin", "deep/two.bin", ".index"):
        (shards / name).write_text(name)
    session = hubstate.start("digits", mode="offline")
    session.log({"a": 1})
    session.save(shards)
    (folder_of(session) / "snapshots" / ".half.part").write_text("half")
    archive = archived(folder_of(session))
    session.close()
    kept = {name.partition("checkpoints/")[2]: archive.read(name) for name in archive.namelist()}
    told = {name.partition("/")[2]: content for name, content in kept.items() if name}
    assert told == {name: name.encode() for name in ("one.bin", "deep/two.bin", ".index")}


@DAMAGED
def test_an_archive_of_a_damaged_journal_says_so(tmp_path):
    """Who reads the archive learns that rows are missing."""
    door = train(door_in(tmp_path))
    door.tell(ev.FitEpochEnd, 0, {"loss": 1.0})
    door.close()
    (segment,) = tmp_path.glob("journal-*")
    segment.write_bytes(segment.read_bytes().replace(b'"loss":1.0', b'"loss":9.0'))
    archive = archived(tmp_path)
    assert "Damaged: 1 place" in archive.read(f"{tmp_path.name}/README.txt").decode()


def test_files_that_move_meanwhile_do_no_harm(tmp_path, monkeypatch):
    """A journal segment that is compressed just now is taken as it is then; a copy that went is needed no more."""
    door = train(door_in(tmp_path))
    door.close()
    (segment,) = tmp_path.glob("journal-*")
    listed = exchange._files

    def then_moved(folder: Path, pattern: str) -> list[Path]:
        files = listed(folder, pattern)
        if pattern == "journal-*":
            Path(f"{segment}.gz").write_bytes(gzip.compress(segment.read_bytes()))
            segment.unlink()
            return files
        return [folder / "gone.pt"]

    monkeypatch.setattr(exchange, "_files", then_moved)
    names = [name.partition("/")[2] for name in archived(tmp_path).namelist()]
    assert f"journal/{segment.name}.gz" in names
    assert not any(name.startswith("checkpoints") for name in names)


# -- where to --------------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    """An export that breaks leaves what stood there before, and nothing beside it."""
    target = tmp_path / "rows.csv"
    target.write_bytes(b"before")

    def half() -> None:
        with destination(target) as out:
            out.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("rows.csv", b"before")]
    with destination(target) as out:
        out.write(b"whole")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("rows.csv", b"whole")]


def test_a_place_that_takes_no_file_is_named(tmp_path):
    """A folder that is not there is told with the file's name, a device is written to as it is."""
    with (
        pytest.raises(StorageError, match=r"cannot write .*nowhere"),
        destination(tmp_path / "nowhere" / "x"),
    ):
        pass
    with destination(Path(os.devnull)) as out:
        out.write(b"gone")
    assert not Path(os.devnull).is_file()
    with pytest.raises(StorageError, match=r"cannot write /dev/full"), destination(Path("/dev/full")) as out:
        out.write(b"x" * 100_000)


# -- the command export ----------------------------------------------------------------------------------


def test_the_command_writes_to_stdout_or_to_a_file():
    """CSV is what comes if nothing else is asked for; in a pipe there is the data and not one word."""
    session = eventful(mode="offline")
    session.close()
    process = ended([*EXPORT, "digits"])
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("epoch,step,attempt,final,at,step/loss,")
    assert process.stdout.count("\n") == 11
    written = ended([*EXPORT, session.id, "--all", "--format", "jsonl", "-o", "rows.jsonl"])
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert len(Path("rows.jsonl").read_text().splitlines()) == 22


def test_an_archive_goes_through_a_pipe():
    """An archive needs no file that one can seek in."""
    session = eventful(mode="offline")
    session.close()
    process = subprocess.run(
        [*EXPORT, session.id, "--format", "zip"], capture_output=True, check=True, timeout=HANGS
    )
    assert zipfile.ZipFile(io.BytesIO(process.stdout)).testzip() is None


def test_an_archive_is_nothing_for_a_terminal():
    """On a terminal a zip needs a file: it is said, and nothing is written."""
    session = eventful(mode="offline")
    session.close()
    ours, theirs = pty.openpty()
    process = subprocess.run(
        [*EXPORT, session.id, "--format", "zip"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=HANGS,
    )
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 2
    assert "give -o FILE" in process.stderr


@DAMAGED
def test_a_damaged_journal_ends_with_1():
    """Rows that are missing are told, and the command did not do all."""
    session = eventful(mode="offline")
    session.close()
    (segment,) = folder_of(session).glob("journal-000002.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"loss":0.125', b'"loss":0.625'))
    process = ended([*EXPORT, session.id])
    assert process.returncode == 1
    assert "the rows of these lines are missing" in process.stderr
    assert process.stdout.count("\n") == 10


def test_a_reader_that_goes_away_is_no_defect():
    """`hubstate export ... | head` ends without a traceback."""
    eventful(mode="offline").close()
    process = subprocess.run(
        f"{' '.join(EXPORT)} digits --all | head -c 1",
        shell=True,
        capture_output=True,
        check=True,
        timeout=HANGS,
    )
    assert b"Traceback" not in process.stderr


@pytest.mark.parametrize("arguments", [["nobody"], ["digits", "--format", "xml"], []])
def test_what_cannot_be_exported_is_a_mistake(arguments):
    """A session or a form that there is not ends with 2."""
    assert ended([*EXPORT, *arguments]).returncode == 2


# -- forgetting ------------------------------------------------------------------------------------------


def settled(name: str = "digits") -> Path:
    """A session of which nothing waits."""
    session = hubstate.start(name, mode="offline")
    session.log({"a": 1})
    session.finish()
    assert ended([PYTHON, "-m", "hubstate", "sync", session.id, "--give-up", "no"]).returncode == 0
    return folder_of(session)


def test_a_session_that_nobody_waits_for_is_removed_whole():
    """Journal, files and entry in the index are gone; the other sessions are as they were."""
    gone, stays = settled(), settled("other")
    process = ended([*FORGET, "digits", "--yes"])
    assert (process.returncode, process.stdout) == (0, ""), process.stderr
    assert not gone.exists()
    assert list(sessions_in(Path(".hubstate"))) == [stays]
    assert [folder.name for folder in the_index().folders()] == [stays.name]
    assert not list(Path(".hubstate").glob(".forgotten-*"))


def test_what_still_waits_is_not_forgotten_unless_forced():
    """Rows that no hub acknowledged keep their session; none of those that were named with it goes either."""
    session = eventful(mode="offline")
    session.finish()
    other = settled("other")
    process = ended([*FORGET, session.id, "other", "--yes"])
    assert process.returncode == 1
    assert f"digits ({session.id}) still holds what no hub has acknowledged" in process.stderr
    assert "nothing was removed" in process.stderr
    assert folder_of(session).exists()
    assert other.exists()
    with pytest.raises(UsageError, match="still holds"):
        forget(folder_of(session), the_index())
    assert folder_of(session).exists()
    assert ended([*FORGET, session.id, "other", "--yes", "--force"]).returncode == 0
    assert list(sessions_in(Path(".hubstate"))) == []


def test_what_a_hub_refused_is_not_forgotten_unless_forced(tmp_path):
    """A delivery that was refused may still be retried: it counts as waiting."""
    door = train(door_in(tmp_path))
    door.tell(ev.Refused, key="S/1/open", reason="no such project", status=422)
    door.close()
    assert "still holds what its hub refused (deliveries: 1)" in hindrance(look(tmp_path))
    assert hindrance(look(tmp_path), force=True) == ""


def test_a_session_that_is_owned_is_never_forgotten():
    """A living process keeps its session, by force too, and is named."""
    session = hubstate.start("digits", mode="offline")
    process = ended([*FORGET, session.id, "--yes", "--force"])
    assert process.returncode == 1
    assert f"is owned by process {os.getpid()}, which lives" in process.stderr
    with pytest.raises(SessionBusy):
        forget(folder_of(session), the_index(), force=True)
    session.log({"still": 1})
    session.close()


def test_what_cannot_be_read_is_forgotten_by_force_alone():
    """A journal beyond reading is told; to be rid of it takes --force."""
    session = hubstate.start("digits", mode="offline")
    session.close()
    for file in folder_of(session).glob("journal-*"):
        file.write_bytes(b"no journal\n")
    (seen,) = look_at_all([folder_of(session)])
    assert isinstance(seen, Unreadable)
    process = ended([*FORGET, session.id, "--yes"])
    assert process.returncode == 1
    assert "cannot be read" in process.stderr
    assert ended([*FORGET, session.id, "--yes", "--force"]).returncode == 0
    assert not folder_of(session).exists()


def test_nobody_to_ask_is_a_mistake():
    """In a pipe nobody can answer, so nothing is removed without --yes."""
    folder = settled()
    process = ended([*FORGET, "digits"])
    assert process.returncode == 2
    assert "--yes" in process.stderr
    assert folder.exists()


@pytest.mark.parametrize(("answer", "code", "stays"), [(b"n\n", 1, True), (b"y\n", 0, False)])
def test_on_a_terminal_it_asks_first(answer, code, stays):
    """What would go is shown with its size, and only a yes removes it."""
    folder = settled()
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*FORGET, "digits"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, answer)
    assert process.wait(HANGS) == code
    os.close(ours)
    assert b"finished, rows: 1, 0.0 MB in " in shown
    assert folder.exists() == stays


def test_a_removal_that_was_cut_off_is_ended_by_the_next():
    """A session that was set aside and not removed is no session any more, and goes with the next one."""
    first, second = settled(), settled("other")
    first.rename(first.with_name(f".forgotten-{first.name}"))
    assert list(sessions_in(Path(".hubstate"))) == [second]
    forget(second, the_index())
    assert [path.name for path in Path(".hubstate").iterdir()] == [".gitignore"]


def test_a_folder_that_cannot_be_set_aside_stays_whole(monkeypatch):
    """Where the first step fails nothing at all was removed, and it is said."""
    folder = settled()

    def contents() -> list[tuple[Path, int]]:
        files = (path for path in folder.rglob("*") if path.name != "owner.lock")
        return sorted((path, path.stat().st_size) for path in files)

    before = contents()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StorageError, match="nothing was removed"):
        forget(folder, the_index())
    assert contents() == before
    monkeypatch.undo()


def test_what_cannot_be_removed_is_named(monkeypatch):
    """A disk that keeps what was set aside: the place is told, for somebody to remove it by hand."""
    folder = settled()
    monkeypatch.setattr(exchange.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(StorageError, match="remove it by hand"):
        forget(folder, the_index())
    assert list(sessions_in(Path(".hubstate"))) == []
