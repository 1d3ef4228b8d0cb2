"""Recordings that were not made here, such as those of other versions may be: derived from those that were.

They hold what a recording may hold (see its schema): ranks above 0, trainings that never began, errors of any kind,
numbers that are none, and less than ours tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from replay import TRACES, Recording, replay, stand_in

Lines = list[dict[str, Any]]

TRAINERS = (
    "ignite-0.5.5-normal",
    "keras-3.15.0-normal",
    "lightgbm-4.7.0-normal",
    "lightning-2.6.6-normal",
    "sklearn-1.9.1-loop-mlp",
    "transformers-5.23.0-normal",
    "ultralytics-8.4.114-normal",
    "ultralytics-8.4.190-normal",
    "xgboost-3.2.0-normal",
)


def lines_of(name: str) -> Lines:
    return [json.loads(line) for line in (TRACES / f"{name}.jsonl").read_text("utf-8").splitlines()]


def raising(lines: Lines, kind: str, message: str) -> Lines:
    """The same, with another error: the caller's, and the one that the trainer told of."""
    error = {"type": kind, "message": message}
    told = [{**line, "exc": error} if "exc" in line else line for line in lines[:-1]]
    return [*told, {**lines[-1], "outcome": "raised", "error": error}]


def without(lines: Lines, *names: str, but: str = "") -> Lines:
    """The same with less known, of the header, of all calls and in common; calls of one kind keep it."""
    less = [
        line if line.get("event") == but else {n: v for n, v in line.items() if n not in names}
        for line in lines
    ]
    common = {n: v for n, v in lines[0].get("common", {}).items() if n not in names}
    return [{**less[0], "common": common}, *less[1:]]


@pytest.fixture
def played(tmp_path: Path) -> Callable[[Lines], Any]:
    """What a replay of these lines leaves."""

    def play(lines: Lines) -> Any:
        path = tmp_path / "other.jsonl"
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
        return replay(path, tmp_path / "here")

    return play


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("size", [{"world_size": 2}, {}], ids=["of two", "of unknown"])
def test_a_rank_above_0_stays_idle(played: Callable[[Lines], Any], name: str, size: dict[str, int]) -> None:
    """Any trainer in a process beside the first one leaves no session, also where only the rank was recorded."""
    first, *rest = without(lines_of(name), "world_size", "rank", "main")
    found = played([{**first, "rank": 1, **size}, *rest])
    assert (found.state, found.outcome, found.rows, found.sessions) == ("idle", None, [], 0)


def test_the_processes_beside_the_first_begin_without_a_word(played: Callable[[Lines], Any]) -> None:
    """Ultralytics fires neither the beginning nor the end of a training above rank 0: that is idle, too."""
    first, *rest = lines_of("ultralytics-8.4.190-normal")
    unheard = ("on_pretrain_routine_start", "on_model_save", "on_train_end")
    kept = [line for line in rest if line.get("event") not in unheard]
    assert played([{**first, "rank": 1, "world_size": 2}, *kept]).state == "idle"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ValueError", "an odd value"),
        ("OutOfMemoryError", "CUDA out of memory"),
        ("UnicodeDecodeError", "'utf-8' codec can't decode"),
        ("OSError", "[Errno 28] No space left\u2028on device"),
    ],
)
@pytest.mark.parametrize(
    "name",
    ["ignite-0.5.5-exception", "lightning-2.6.6-exception", "keras-3.15.0-exception"],
)
def test_any_error_is_the_reason(played: Callable[[Lines], Any], name: str, kind: str, message: str) -> None:
    """An abort's reason tells the recorded error by its own name, whether the callback or the caller hears of it."""
    found = played(raising(lines_of(name), kind, message))
    assert (found.state, found.outcome) == ("aborted", "failed")
    assert found.reason.startswith(f"{kind}: {message[:9]}")


def test_sigterm_interrupts_lightning(played: Callable[[Lines], Any]) -> None:
    """Lightning hands its own SIGTERMException to the callback: that interrupts a training, and does not fail it."""
    found = played(raising(lines_of("lightning-2.6.6-exception"), "SIGTERMException", ""))
    assert (found.state, found.outcome, found.reason) == ("aborted", "interrupted", "ended by SIGTERM")


def test_an_error_of_which_nothing_is_known_still_aborts(played: Callable[[Lines], Any]) -> None:
    """That it raised is enough."""
    lines = lines_of("keras-3.15.0-exception")
    lines[-1]["error"] = None
    assert played(lines).state == "aborted"


def test_an_error_of_a_replay_itself_is_not_taken_for_the_recorded_one(
    played: Callable[[Lines], Any],
) -> None:
    """A replay that goes wrong by a KeyError has failed, also where a KeyError was recorded."""
    lines = without(lines_of("transformers-5.23.0-exception"), "event")
    with pytest.raises(KeyError, match="event"):
        played(raising(lines, "KeyError", "'model'"))


def test_a_training_that_failed_before_its_first_callback_is_aborted(
    played: Callable[[Lines], Any],
) -> None:
    """Without a single call the block around Ultralytics' `train()` still hears the error."""
    first, *_, last = lines_of("ultralytics-8.4.190-normal")
    found = played(raising([first, last], "FileNotFoundError", "no squares.yaml"))
    assert (found.state, found.reason) == ("aborted", "FileNotFoundError: no squares.yaml")


def test_a_second_training_is_as_good_as_the_first(played: Callable[[Lines], Any]) -> None:
    """A model that trains twice is done twice, also where the second training's folder was not recorded."""
    first, *calls, last = lines_of("ultralytics-8.4.190-normal")
    again = without([first, *calls], "save_dir", "model", "t", "t_end")[1:]
    found = played([first, *calls, *again, last])
    assert (found.state, found.sessions, found.illegal) == ("done", 2, [])
    assert [row["epoch"] for row in found.rows] == [0, 1, 2, 3] * 2


@pytest.mark.parametrize(
    ("name", "unknown", "but"),
    [
        ("ignite-0.5.5-normal", ["max_epochs", "output", "step"], ""),
        ("keras-3.15.0-normal", ["params", "files", "stop", "common"], ""),
        ("lightgbm-4.7.0-normal", ["higher_better", "begin", "end"], ""),
        ("lightning-2.6.6-normal", ["max_epochs", "best", "last", "files", "main", "world_size"], ""),
        ("lightning-2.6.6-normal", ["metrics"], "on_train_epoch_end"),
        ("transformers-5.23.0-normal", ["kwargs", "num_train_epochs", "kwargs_extra", "main"], ""),
        ("ultralytics-8.4.190-normal", ["files", "model", "resume", "start_epoch", "stop", "fitness"], ""),
        ("ultralytics-8.4.190-noval", ["lr", "train_loss", "best_fitness"], ""),
        ("xgboost-3.2.0-normal", ["common"], ""),
    ],
)
def test_what_was_not_recorded_is_not_needed(
    played: Callable[[Lines], Any], tmp_path: Path, name: str, unknown: list[str], but: str
) -> None:
    """With less known of a training it is done all the same, with every row of which the recording tells."""
    lines = without(lines_of(name), *unknown, but=but)
    found = played(lines)
    recording = Recording.of(tmp_path / "other.jsonl")
    assert (found.state, found.illegal) == ("done", [])
    assert found.rows
    assert found.rows == list(stand_in(recording).rows(recording))


@pytest.mark.parametrize("name", [name for name in TRAINERS if "8.4.114" not in name])
def test_numbers_that_are_none_are_values(played: Callable[[Lines], Any], tmp_path: Path, name: str) -> None:
    """Where everything measured is NaN or infinite the same rows are told, by the same names, and nothing is illegal."""
    of = ("metrics", "train_loss")

    def spoilt(line: dict[str, Any]) -> dict[str, Any]:
        odd = zip(of, ("NaN", "-Infinity"), strict=True)
        changed = {n: dict.fromkeys(line[n], value) for n, value in odd if line.get(n)}
        return {**line, **changed, **({"fitness": "NaN"} if "fitness" in line else {})}

    found = played([spoilt(line) for line in lines_of(name)])
    recording = Recording.of(tmp_path / "other.jsonl")
    assert (found.state, found.illegal) == ("done", [])
    assert repr(found.rows) == repr(
        list(stand_in(recording).rows(recording))
    )  # NaN is no NaN, but by its name


def test_a_callback_that_is_told_no_metrics_has_a_row_of_the_rest(played: Callable[[Lines], Any]) -> None:
    """Ultralytics without validation metrics (`None`) still tells losses and learning rates."""
    lines = lines_of("ultralytics-8.4.190-normal")
    found = played([{**line, "metrics": None} if "metrics" in line else line for line in lines])
    assert found.state == "done"
    assert list(found.rows[0]["metrics"]) == [
        *("train/box_loss", "train/cls_loss", "train/dfl_loss"),
        *("lr/pg0", "lr/pg1", "lr/pg2"),
    ]


@pytest.mark.parametrize("name", [name for name in TRAINERS if "sklearn" not in name])
def test_what_the_user_did_is_no_call_of_the_trainer(played: Callable[[Lines], Any], name: str) -> None:
    """A line of the caller's own code, between or after the trainer's calls, changes nothing."""
    first, *calls, last = lines_of(name)
    word = {"kind": "event", "i": 0, "event": "returned", "src": "caller"}
    found = played([first, word, *calls, word, last])
    assert (found.state, found.sessions, found.illegal) == ("done", 1, [])


def test_a_cross_validation_has_means_and_deviations(played: Callable[[Lines], Any], tmp_path: Path) -> None:
    """Where XGBoost's `cv()` was recorded each metric is a pair, and the row has both."""
    lines = lines_of("xgboost-3.2.0-normal")
    for line in lines:
        if line.get("metrics"):
            line["metrics"] = {name: [value, 0.5] for name, value in line["metrics"].items()}
    found = played(lines)
    names = ["train/mlogloss", "train/mlogloss-std", "val/mlogloss", "val/mlogloss-std"]
    assert [list(row["metrics"]) for row in found.rows] == [names] * 4
    recording = Recording.of(tmp_path / "other.jsonl")
    assert found.rows == list(stand_in(recording).rows(recording))


def test_lightning_is_known_without_its_stage(played: Callable[[Lines], Any]) -> None:
    """Where `fn` was not recorded the scenario tells what was called, and hooks of state change nothing."""
    lines = without(lines_of("lightning-2.6.6-normal"), "fn")
    assert played([*lines[:9], {**lines[8], "event": "state_dict"}, *lines[9:]]).state == "done"


def test_a_metric_that_was_not_measured_is_left_out(played: Callable[[Lines], Any]) -> None:
    """A loop logs the numbers that it has: `null` in a recording is none."""
    lines = lines_of("sklearn-1.9.1-loop-sgd")
    for line in lines[1:-1]:
        line["metrics"]["nothing"] = None
    found = played(lines)
    assert (found.state, len(found.rows)) == ("done", 5)
    assert all("nothing" not in row["metrics"] for row in found.rows)


def test_the_last_training_of_several_is_the_one_that_counts(played: Callable[[Lines], Any]) -> None:
    """Where nobody recorded the time, too, rows come in the order of the trainings, and the end is that of the last one."""
    first, *calls, last = lines_of("lightgbm-4.7.0-normal")
    broken_off = calls[:2]
    found = played([first, *broken_off * 5, *calls, last])
    assert (found.state, found.outcome, found.sessions) == ("done", "finished", 6)
    assert [row["epoch"] for row in found.rows] == [0, 0, 0, 0, 0, 0, 1, 2, 3]


def test_a_trainer_that_nobody_knows_is_named(played: Callable[[Lines], Any]) -> None:
    """A recording of an unknown trainer is refused by its name; a loop around PyTorch is as one around scikit-learn."""
    first, *rest = lines_of("sklearn-1.9.1-loop-sgd")
    with pytest.raises(ValueError, match="no stand-in for the trainer 'catboost'"):
        played([{**first, "trainer": "catboost"}, *rest])
    assert played([{**first, "trainer": "pytorch"}, *rest]).state == "done"
