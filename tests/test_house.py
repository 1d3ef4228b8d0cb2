"""The habits of the house, held by tests: what every room, test, page and pin has to be like."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hubstate

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hubstate"
TESTS = ROOT / "tests"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
TRAINER_PINS = (ROOT / "constraints-trainers.txt").read_text()
MLFLOW_PINS = (ROOT / "constraints-mlflow.txt").read_text()

#: Rooms without a test file of their own, and why.
WITHOUT_TESTS = {
    "__init__": "the door: names alone, held by tests/typing and used by every other test",
    "__main__": "one line, run by the tests of the command line",
    "actions": "values without behaviour; tests/grid holds which of them follow from what",
    "adopt": "tests/grid judges what a step leaves in the memory",
    "controller": "tests/grid judges every decision, cell by cell",
    "errors": "a tree of names; tests/typing holds its shape",
    "states": "words alone; tests/typing holds them",
}


def files(*patterns: str) -> list[str]:
    """The files of this checkout that are, or would be, committed."""
    # The checkout may belong to another user than the one who tests it, as in a container.
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(
        [*command, *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


def script(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one of the scripts."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
    )


# -- rooms and their tests -------------------------------------------------------------------------------


def is_tested(room: str) -> bool:
    """Whether a room has its test file, or a package of rooms its folder of tests."""
    return (TESTS / f"test_{room}.py").is_file() or any((TESTS / room).glob("test_*.py"))


def test_every_room_has_its_tests():
    """Who looks for the tests of a room finds them under its name."""
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/*.py")
    }
    missing = {room for room in rooms if not is_tested(room)} - set(WITHOUT_TESTS)
    assert not missing, f"rooms without tests: {', '.join(sorted(missing))}"


def test_no_exception_outlives_its_reason():
    """A room that is listed as having no tests exists, and has none."""
    assert {
        room for room in WITHOUT_TESTS if not (PACKAGE / f"{room}.py").is_file() or is_tested(room)
    } == set()


def test_every_test_says_what_it_requires():
    """Every test function has a docstring: the requirement, in a sentence."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not ast.get_docstring(node)
    ]
    assert silent == []


# -- pages -----------------------------------------------------------------------------------------------


def test_the_readme_is_a_door_and_no_manual():
    """README.md is at most 150 lines long."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_found_from_the_readme():
    """README.md links to each page in docs/ that is committed, so that none is written for nobody."""
    readme = (ROOT / "README.md").read_text()
    assert [page for page in files("docs/*.md") if f"({page})" not in readme] == []


@pytest.mark.parametrize("page", files("*.md"))
def test_links_between_pages_lead_somewhere(page):
    """Every relative link in a page names a file of this checkout."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text())
    here = (ROOT / page).parent
    assert [link for link in links if "://" not in link and not (here / link).exists()] == []


def test_the_example_in_the_readme_is_true():
    """The example in README.md is valid Python, and every name that it takes from hubstate and from a session exists."""
    (example,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    known = {"hubstate": hubstate, "session": hubstate.Session}
    taken = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known
    ]
    assert {name for name, _attribute in taken} == set(known)
    assert [f"{name}.{attribute}" for name, attribute in taken if not hasattr(known[name], attribute)] == []


def test_the_changelog_has_a_place_for_what_comes_next():
    """CHANGELOG.md keeps a section for what is not released yet, before all others."""
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[:1] == ["Unreleased"]


#: Written in pieces, so that this file does not hold what it forbids. Examples may speak of a user `me`: nobody is.
HOSTS = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "crates" + ".io", "deb.debian" + ".org")
PRIVATE = re.compile(
    "|".join([*map(re.escape, HOSTS), r"(?<![\w.])/(?:root|work|(?:home|Users)/(?!me/)\w+)/"])
)


@pytest.mark.parametrize(
    "text", [*HOSTS, "at /ro" + "ot/x", '"/wo' + "rk/x", "=/ho" + "me/ada/x", "(/Us" + "ers/ada/x"]
)
def test_private_texts_are_known(text):
    """The pattern of what no file may mention finds each kind of it."""
    assert PRIVATE.search(text)


def test_no_file_tells_where_it_was_written():
    """No file names a package registry's host or a path of somebody's machine."""
    told = [
        f"{name}: {found.group()}"
        for name in files()
        if (found := PRIVATE.search((ROOT / name).read_text(encoding="utf-8", errors="replace")))
    ]
    assert told == []


# -- imports ---------------------------------------------------------------------------------------------

#: For each contract, an import that breaks it: (the room, what it imports).
BREAKS = {
    "Imports point towards the words": ("errors", "hubstate.journal"),
    "Words and decisions do nothing": ("limits", "sqlite3"),
    "Only the machine knows the library transitions": ("controller", "transitions"),
    "Only the hubs speak HTTP": ("settings", "requests"),
    "The hub one owns does not know": ("server/__init__", "hubstate.outbox"),
    "A diagram is given steps": ("diagram/__init__", "hubstate.journal"),
    "Nothing inside imports the door": ("receipt", "hubstate"),
    "The door opens without": ("__init__", "pytest"),
}


@pytest.fixture
def lint(tmp_path):
    """Lints a copy of the package into which imports were planted; answers exit code and report."""

    def linted(*plants: tuple[str, str]) -> tuple[int, str]:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, tmp_path / "hubstate", ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        for room, wanted in plants:
            path = tmp_path / "hubstate" / f"{room}.py"
            text = path.read_text() if path.exists() else ""
            path.write_text(f"{text}\nimport {wanted}\n")
        # A program of its own, in the copy: this process has the real package loaded already.
        code = (
            "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
        )
        command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "300"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return linted


def test_every_contract_about_imports_bites(lint):
    """An import that a contract forbids breaks that contract, for each of the contracts in pyproject.toml."""
    code, report = lint(*BREAKS.values())
    assert code == 1
    names = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]
    assert [name for name in names if not any(name.startswith(start) for start in BREAKS)] == []
    for name in names:
        assert f"{name} BROKEN" in report
    for room, wanted in BREAKS.values():
        importer = "hubstate." + room.replace("/", ".").removesuffix("__init__")
        assert re.search(rf"{importer.rstrip('.')} -> {wanted}\b", report), (importer, wanted)


def test_a_room_without_a_layer_is_refused(lint):
    """A new file in the package needs a place among the layers; `utils.py` has none."""
    code, report = lint(("utils", "hubstate.states"))
    assert code == 1
    assert "hubstate.utils" in report


def test_the_package_keeps_its_contracts(lint):
    """The rooms as they are import only what they may."""
    code, report = lint()
    assert (code, "0 broken" in report) == (0, True), report


# -- the package and its pins ----------------------------------------------------------------------------


def test_the_version_is_told_in_one_place():
    """`hubstate.__version__` is the version in pyproject.toml, through what is installed."""
    assert hubstate.__version__ == metadata.version("hubstate") == PROJECT["project"]["version"]


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    """What is committed below hubstate/ is in the wheel, types, templates and data included, and so is the licence."""
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert set(files("hubstate")) - held == set()
    assert any(name.endswith("licenses/LICENSE") for name in held)


#: Whoever uses a module of hubstate/trainers has its trainer: hubstate asks for none.
THEIR_OWN = {
    "torch",
    "ignite",
    "keras",
    "lightgbm",
    "lightning",
    "pytorch-lightning",
    "transformers",
    "ultralytics",
    "xgboost",
}


def third_party() -> set[str]:
    """The packages, by their name at a registry, that the rooms import and Python does not bring."""
    distributions = metadata.packages_distributions()
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for top in (
                {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"hubstate"}
            ):
                found.add(normal(distributions.get(top, [top])[0]))
    return found


def normal(name: str) -> str:
    """A package's name in the one form that compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_asked_for():
    """A package that a room imports stands in pyproject.toml itself, not only in the wake of another one."""
    project = PROJECT["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    asked += project["optional-dependencies"]["server"] + project["optional-dependencies"]["testing"]
    assert third_party() - {normal(Requirement(text).name) for text in asked} - THEIR_OWN == set()


def pinned(constraints: str = CONSTRAINTS) -> dict[str, set[str]]:
    """The versions that constraints.txt, or another such text, pins, by the name of the package."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", constraints, re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def test_every_dependency_is_pinned_within_its_range():
    """constraints.txt pins what pyproject.toml asks for, in versions that pyproject.toml allows."""
    project = PROJECT["project"]
    asked = [*project["dependencies"], *PROJECT["build-system"]["requires"]]
    asked += [text for extra in project["optional-dependencies"].values() for text in extra]
    versions = pinned()
    for requirement in map(Requirement, asked):
        if requirement.name != "hubstate":
            name = normal(requirement.name)
            assert versions.get(name), f"{name} is not pinned; run scripts/pin"
            assert all(map(requirement.specifier.contains, versions[name])), requirement


def test_the_trainers_of_the_tests_are_pinned_beside():
    """constraints-trainers.txt pins what the group asks for and no torch, and what both files pin in one version."""
    here, trainers = pinned(), pinned(TRAINER_PINS)
    for requirement in map(Requirement, PROJECT["dependency-groups"]["trainers"]):
        assert trainers[normal(requirement.name)], "scripts/pin was not run"
        assert all(map(requirement.specifier.contains, trainers[normal(requirement.name)])), requirement
    assert {"torch", "torchvision", "opencv-python"} & set(trainers) == set()
    assert {name for name in here.keys() & trainers.keys() if not trainers[name] <= here[name]} == set()


def test_the_mlflow_of_the_tests_is_pinned_beside():
    """constraints-mlflow.txt pins what the group asks for, and what it shares with constraints.txt in one version."""
    here, mlflow = pinned(), pinned(MLFLOW_PINS)
    for requirement in map(Requirement, PROJECT["dependency-groups"]["mlflow"]):
        assert mlflow[normal(requirement.name)], "scripts/pin was not run"
        assert all(map(requirement.specifier.contains, mlflow[normal(requirement.name)])), requirement
    assert [name for name in here.keys() & mlflow.keys() if here[name] != mlflow[name]] == []


@pytest.mark.parametrize(
    "constraints", [CONSTRAINTS, TRAINER_PINS, MLFLOW_PINS], ids=["project", "trainers", "mlflow"]
)
def test_every_pin_has_digests_and_none_has_a_host(constraints):
    """Each pin carries SHA-256 digests, and nothing in the constraints says from where a package comes."""
    for pin in re.split(r"\n(?=[a-z0-9])", constraints.strip()):
        assert re.match(r"[a-z0-9-]+==\S+ (;.+ )?\\\n    --hash=sha256:[0-9a-f]{64}", pin), pin[:100]
    assert re.findall(r"://|^-.*|file:|(?<!\w)/\S+", constraints, re.MULTILINE) == []


@pytest.mark.parametrize("extra", ["demo", "dev"])
def test_the_pins_of_an_extra_are_closed(extra):
    """`scripts/pins.py` gives all that an extra's packages need on this machine, and nothing twice."""
    given = script(sys.executable, str(ROOT / "scripts/pins.py"), extra)
    assert given.returncode == 0, given.stderr
    lines = re.findall(r"^(\S+)==(\S+?)(?: ; (.+?))? \\$", given.stdout, re.MULTILINE)
    assert len(lines) == len(set(lines))
    names = {name for name, _version, _marker in lines}
    for name in names - {"colorama"}:  # for Windows alone
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                assert normal(requirement.name) in names


def test_the_demo_needs_no_tool_of_the_checks():
    """The demo's pins leave out what only the checks need."""
    given = script(sys.executable, str(ROOT / "scripts/pins.py"), "demo").stdout
    assert "fastapi==" in given
    assert not re.search(r"^(mypy|pytest|ruff|hypothesis)==", given, re.MULTILINE)


def test_an_unknown_extra_is_refused_by_name():
    """A mistyped extra is named together with the ones that exist."""
    refused = script(sys.executable, str(ROOT / "scripts/pins.py"), "dmeo")
    assert refused.returncode == 1
    assert "there is no extra 'dmeo'; known: server, demo, testing, browser, dev" in refused.stderr
    assert script("bash", str(ROOT / "scripts/setup"), "dmeo").returncode == 2


# -- the set-up ------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path):
    """A checkout without an environment, and a way to set it up with an interpreter of one's own making."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")

    def set_up(interpreter: str) -> subprocess.CompletedProcess[str]:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{interpreter}\n")
        python.chmod(0o755)
        return script("bash", str(tmp_path / "scripts/setup"), "dev", PYTHON=str(python))

    return set_up


def test_a_python_without_venv_is_told_what_to_install(fresh):
    """On a Debian without python3-venv the set-up names the package to install, and leaves no half environment."""
    refused = fresh(f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"')
    assert refused.returncode == 1
    assert "apt-get install python3-venv" in refused.stderr


def test_a_python_that_is_too_old_is_refused(fresh):
    """Without Python 3.11 or newer the set-up says so."""
    refused = fresh("exit 1")
    assert refused.returncode == 1
    assert "no Python 3.11 or newer was found" in refused.stderr


@pytest.mark.parametrize(
    "name",
    [
        ".ci/run",
        *(
            f"scripts/{name}"
            for name in ["check", "demo", "long", "mlflow", "mutate", "pin", "setup", "trainers"]
        ),
    ],
)
def test_a_script_can_be_run_and_parsed(name):
    """Every script is executable and valid for bash."""
    assert os.access(ROOT / name, os.X_OK)
    assert script("bash", "-n", str(ROOT / name)).stderr == ""
