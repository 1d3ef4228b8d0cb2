"""The simulation: worlds that hold, the same again from the same seed, and a disk that fails as disks do."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace

import pytest

from hubstate import journal
from hubstate.proof.disk import WRITTEN_BACK, Disk, Killed, mounted
from hubstate.proof.foreign import Foreign, Told
from hubstate.proof.network import WEATHERS
from hubstate.proof.simulate import EPOCHS, HOURS, MUST_COVER, Report, Run, row_name, run, runs

#: Each found something once: several half heads that one power cut left behind one another, and a segment built on
#: another's end that no disk kept; and a file that the network brought once more behind rows that were tried anew. A
#: seed tells another story as soon as a world draws anything else: so what each found is held by a test of its room, too.
#: One has a foreign hub.
A_FOREIGN_WORLD = 12
FOUND_SOMETHING = (48, 500053, 2000691, 1217711001, A_FOREIGN_WORLD)
ANSWER = Foreign.answer


@pytest.mark.parametrize("seed", FOUND_SOMETHING)
def test_a_world_that_failed_once_holds(seed):
    """What a seed has found stays mended."""
    one = run(seed)
    assert one.failure == ""
    assert one.epochs >= EPOCHS
    assert one.hours >= HOURS


@pytest.mark.parametrize("count", [4, pytest.param(200, marks=pytest.mark.long)])
def test_fresh_worlds_hold(count):
    """Worlds that nobody has seen before hold as well; their seeds are printed."""
    first = int.from_bytes(os.urandom(4))
    print(f"seeds {first} to {first + count - 1}")
    report = Report()
    for one in runs(first, count, 2):
        report.add(one)
    assert [(one.seed, one.failure) for one in report.failed] == []
    assert report.holds


def drops_an_epoch(hub, path, headers, body, key):
    """A foreign hub that says of one epoch that it has it, and has not."""
    if b'"5"' in body and not path.endswith("upload"):
        return Told(200, {"message": "ok"})
    return ANSWER(hub, path, headers, body, key)


def cuts_a_file(hub, path, headers, body, key):
    """A foreign hub that lacks the last byte of each file."""
    told = ANSWER(hub, path, headers, body, key)
    for model in hub.models.values():
        if path.endswith("upload"):
            model.files = {name: content[:-1] for name, content in model.files.items()}
    return told


@pytest.mark.parametrize(("mistake", "words"), [(drops_an_epoch, "epoch"), (cuts_a_file, "file")])
def test_what_a_foreign_hub_holds_is_judged(monkeypatch, mistake, words):
    """Where the hub is none of one's own, a lost row and a spoilt file are found as well."""
    monkeypatch.setattr(Foreign, "answer", mistake)
    assert words in run(A_FOREIGN_WORLD).failure


def test_a_seed_is_one_world():
    """The same seed gives the same journals, the same hub and the same story, in this process and in another."""
    here = run(5)
    (there,) = runs(5, 1, 1, stories=True)
    assert there == here
    assert run(6).digest != here.digest


def test_a_run_leaves_nothing_behind(tmp_path):
    """A world lies in a folder of its own, which is gone afterwards, and the working directory is as it was."""
    before = os.getcwd()  # noqa: PTH109 - the very thing that must not change
    run(5, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert os.getcwd() == before  # noqa: PTH109


# -- many runs -------------------------------------------------------------------------------------------


def made(count: int, **changes: object) -> Report:
    """A report of runs that covered everything, each with what is changed."""
    report = Report()
    for seed in range(count):
        one = Run(seed, "", EPOCHS, HOURS, "", Counter(MUST_COVER))
        report.add(replace(one, **changes))
    return report


def test_many_runs_must_cover_everything():
    """What never happened in a thousand runs makes the whole fail; a few runs cannot cover all."""
    assert made(1_000).holds
    missing = Counter(MUST_COVER[1:])
    assert not made(1_000, counts=missing).holds
    assert made(1_000, counts=missing).uncovered == [MUST_COVER[0]]
    assert made(999, counts=missing).holds


@pytest.mark.parametrize("change", [{"failure": "S1: lost"}, {"epochs": EPOCHS - 1}, {"hours": HOURS - 0.1}])
def test_one_bad_run_is_enough(change):
    """A run that failed, or that was too short to say much, makes the whole fail."""
    assert not made(3, **change).holds


def test_a_row_is_told_in_words():
    """The coverage names the rows of the table by what they are about."""
    assert row_name("row 1") == "row 1: idle / pretrain_routine_start [may_open] -> session_created"
    assert row_name("fault: 413") == "fault: 413"


def test_every_weather_is_likely_at_most_once():
    """The chances of one weather's faults never add up to more than one."""
    assert [name for name, faults in WEATHERS.items() if sum(faults.values()) > 1.0 + 1e-9] == []


# -- the disk --------------------------------------------------------------------------------------------


class Machine:
    """A disk, with a clock that is set and a journal's segment on it."""

    def __init__(self, folder) -> None:
        self.now = 0.0
        self.struck: list[str] = []
        self.disk = Disk(random.Random(1), lambda: self.now, self.struck.append)
        self.folder = folder / "session"
        self.folder.mkdir()
        self.file = self.folder / "journal-000001.jsonl"
        self.fd = self.disk.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def keep(self) -> None:
        """Asks the disk to keep the file, and its name."""
        self.disk.fsync(self.fd)
        fd = self.disk.open(self.folder, os.O_RDONLY)
        self.disk.fsync(fd)
        self.disk.close(fd)

    def gone(self) -> None:
        """Lets go of everything, and of the file, which is no journal that anybody should judge."""
        self.disk.reborn()
        self.file.unlink(missing_ok=True)


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    made.gone()


def test_a_power_cut_spares_what_was_synced(machine):
    """What the disk was asked to keep survives, and of the rest a part at most."""
    machine.disk.write(machine.fd, b"kept\n")
    machine.keep()
    machine.disk.write(machine.fd, b"unsynced\n" * 100)
    machine.disk.cut_power([machine.folder])
    left = machine.file.read_bytes()
    assert left.startswith(b"kept\n")
    assert len(left) < 905
    assert machine.disk.taken == {machine.file}


def test_a_power_cut_spares_what_is_old(machine):
    """The kernel writes everything down by itself after a while."""
    machine.disk.write(machine.fd, b"old\n" * 100)
    machine.now = WRITTEN_BACK + 1.0
    machine.disk.cut_power([machine.folder])
    assert machine.file.read_bytes() == b"old\n" * 100


def test_what_a_killed_process_wrote_last_is_old_in_its_time(machine):
    """The kernel writes down what a process wrote while it was killed, too."""
    machine.keep()
    machine.disk.kill_at = (1, "after")
    with pytest.raises(Killed):
        machine.disk.write(machine.fd, b"the last line\n")
    machine.disk.reborn()
    machine.now = WRITTEN_BACK + 1.0
    machine.disk.cut_power([machine.folder])
    assert machine.file.read_bytes() == b"the last line\n"


def test_the_end_of_an_earlier_segment_is_kept_first(machine):
    """Who asks the disk to keep a segment, and not what it builds on, is found out without any power cut."""
    machine.disk.write(machine.fd, b"a line\n")
    later = machine.disk.open(machine.file.with_name("journal-000002.jsonl"), os.O_WRONLY | os.O_CREAT, 0o600)
    machine.disk.write(later, b"a head\n")
    machine.disk.fsync(machine.fd)
    machine.disk.fsync(later)
    assert machine.disk.disorder == ""
    machine.disk.write(machine.fd, b"one more\n")
    machine.disk.fsync(later)
    assert "not the end of journal-000001.jsonl" in machine.disk.disorder
    machine.disk.reborn()
    machine.file.with_name("journal-000002.jsonl").unlink()


def test_an_unnamed_file_may_be_lost_whole(tmp_path):
    """A file whose folder nobody synced is gone with the power, half of the time."""
    lost = 0
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        machine = Machine(tmp_path / str(number))
        machine.disk._chance = random.Random(number)
        machine.disk.cut_power([machine.folder])
        lost += not machine.file.exists()
        machine.gone()
    assert 0 < lost < 20


@pytest.mark.parametrize(("mood", "number"), [("full", 28), ("failing", 5)])
def test_a_disk_fails_as_it_is_told(machine, mood, number):
    """A full disk and a failing one refuse each with their own error."""
    machine.disk.mood = mood
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        machine.disk.write(machine.fd, b"line\n")
    assert machine.file.read_bytes() == b""


def test_a_short_write_takes_a_part(machine):
    """A disk that is nearly full takes some of a line, and says how much."""
    machine.disk.mood = "short"
    written = machine.disk.write(machine.fd, b"a whole line\n")
    assert 0 < written < 13
    assert machine.file.stat().st_size == written


@pytest.mark.parametrize(("way", "least", "most"), [("before", 0, 0), ("torn", 0, 4), ("after", 5, 5)])
def test_a_process_dies_in_a_line_and_stays_dead(machine, way, least, most):
    """A kill in the middle of a write leaves the line, a part of it or nothing; the process does no more after it."""
    machine.disk.kill_at = (1, way)
    with pytest.raises(Killed):
        machine.disk.write(machine.fd, b"line\n")
    assert least <= machine.file.stat().st_size <= most
    with pytest.raises(Killed):
        machine.disk.ftruncate(machine.fd, 0)
    with pytest.raises(Killed):
        machine.disk.fsync(machine.fd)


def test_the_real_module_stands_again_afterwards(machine):
    """The journal writes to the simulated disk as long as that is mounted, and no longer."""
    with mounted(machine.disk):
        assert journal.os is machine.disk
    assert journal.os is os
