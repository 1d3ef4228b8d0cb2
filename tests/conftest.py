"""Every test lives in a world of its own: its own home, its own working directory, no setting of whoever runs it.

And every journal that a test leaves behind is evidence: `verify` has to accept it, or the test says why it cannot.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, is_hypothesis_test, settings

from hubstate.errors import StorageError
from hubstate.proof.verify import verify

#: For mutation runs: a mutant is dead when one example fails, and nobody reads the smallest one.
settings.register_profile(
    "mutation",
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: For every run of the tests: the same examples each time, so that a change breaks a test or does not, and never
#: sometimes. `scripts/long` draws others.
settings.register_profile("everyday", derandomize=True, database=None)
settings.load_profile("everyday")

#: The rooms and modules here that search, simulate, kill, render, serve or run whole programs: `scripts/check` leaves them
#: out, but with `--all`.
THOROUGH = (
    "browser/",
    "chaos/",
    "cli/",
    "crash/",
    "diagram/",
    "hubs/test_fuzz",
    "promises/",
    "proof/",
    "server/",
    "show/",
    "test_checkpoint_promises",
    "test_demo",
    "test_machines",
    "test_outage",
    "test_supervise",
    "test_two_homes",
    "testing/",
)

_PASSED = pytest.StashKey[bool]()
_DAMAGES = "damages_journals"
#: How long a thread may take to end that has been asked to (seconds): a session that is closed waits for no parcel.
_TO_ITS_END = 30.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`HUBSTATE_TEST_LONG` is a number: each property is tried on so many times as many examples, others each time.

    What a test says of itself is the measure, because what is slow asks for few. Without it the tests for which
    nobody has the time are skipped; and those that need a real trainer, or a real MLflow server, but in the scripts that
    install those (`HUBSTATE_TEST_TRAINERS`, `HUBSTATE_TEST_MLFLOW`).
    """
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(THOROUGH):
            item.add_marker("thorough")
    for needs in ("trainers", "mlflow"):
        if not os.environ.get(f"HUBSTATE_TEST_{needs.upper()}"):
            for item in items:
                if item.get_closest_marker(needs):
                    item.add_marker(pytest.mark.skip(reason=f"for scripts/{needs}"))
    times = int(os.environ.get("HUBSTATE_TEST_LONG") or 0)
    if times < 1:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="for scripts/long"))
        return
    functions = {item.function for item in items if isinstance(item, pytest.Function)}
    for function in filter(is_hypothesis_test, functions):
        own = function._hypothesis_internal_use_settings
        function._hypothesis_internal_use_settings = settings(
            own, derandomize=False, max_examples=times * own.max_examples, print_blob=True
        )


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Iterator[None]:
    """A process that is started hears Ctrl-C, also where the tests run in a shell's background, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def new_threads() -> Callable[[], set[threading.Thread]]:
    """The threads that began since the test did; another test's, or a longer living fixture's, may be in this process."""
    others = frozenset(threading.enumerate())
    return lambda: set(threading.enumerate()) - others


@pytest.fixture(autouse=True)
def _every_thread_ends(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread that sends or shows outlives the test that began it: it would go on in the world of another one.

    A hub's own are let be: one that serves several tests begins them with its first write. So is what a test leaves that
    failed.
    """
    others = frozenset(threading.enumerate())
    yield
    if not request.node.stash.get(_PASSED, False):
        return
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in others
        and thread.name.startswith("hubstate-")
        and not thread.name.startswith("hubstate-hub")
    ]
    for thread in left:
        thread.join(_TO_ITS_END)
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive, f"threads go on: {', '.join(alive)}; close what began them"


@pytest.fixture(scope="session", autouse=True)
def _folders_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Every folder that was made of the factory, in order: by a test, for it, or for several of them."""
    made: list[Path] = []
    make = tmp_path_factory.mktemp

    def noting_make(*args: Any, **options: Any) -> Path:
        made.append(make(*args, **options))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tmp_path_factory, "mktemp", noting_make)
        yield made


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes what belongs to this user, and none sees another's sessions."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("HUBSTATE_", "MLFLOW_")) or name in (
            "RANK",
            "LOCAL_RANK",
            "NO_COLOR",
            "FORCE_COLOR",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    for name in ("work", "tmp"):
        (home / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home / "tmp"))
    monkeypatch.chdir(home / "work")
    return home


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes whether a test passed, for what is judged after it."""
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
def _journals_are_evidence(
    request: pytest.FixtureRequest, _folders_made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """`verify` accepts every journal that a test made, those that it removed itself included.

    Its folders are all that were made since the test before it: its world, its `tmp_path`, what it made of the factory,
    and what a fixture of several tests made first for this one.

    A test that damages or invents journals is marked `damages_journals` with the reason. The marker guards itself: a
    test that carries it and leaves only journals that are accepted fails.
    """
    marker = request.node.get_closest_marker(_DAMAGES)
    rejected: list[str] = []
    remove = shutil.rmtree

    def judging_remove(path: Any, *args: Any, **options: Any) -> None:
        rejected.extend(_rejected(Path(os.fsdecode(path)), empty=marker is not None))
        remove(path, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", judging_remove)
    yield
    places = list(_folders_made)
    _folders_made.clear()
    if not request.node.stash.get(_PASSED, False):
        return
    for place in places:
        rejected.extend(_rejected(place, empty=marker is not None))
    if marker is None:
        assert not rejected, "verify does not accept what this test left:\n" + "\n".join(rejected)
    else:
        assert marker.kwargs.get("reason"), f"{_DAMAGES} needs a reason="
        assert rejected, f"{_DAMAGES} has no place here: verify accepts every journal that this test left"


def _rejected(place: Path, *, empty: bool) -> Iterator[str]:
    """Every journal below a folder that verify does not accept, and why. `empty`: an empty file counts as one."""
    for folder, _, names in os.walk(place):
        files = [Path(folder, name) for name in names if name.startswith("journal-")]
        if any(empty or file.stat().st_size for file in files):
            try:
                verdict = verify(Path(folder))
            except StorageError as failure:
                yield f"{folder}: {failure}"
            else:
                if not verdict.proven:  # many a test tells of files that never were
                    yield f"{folder}: {verdict}"
