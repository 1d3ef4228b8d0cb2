"""What each tool left is read as it was written: rows, times, settings, checkpoints, and what cannot be read is named."""

from __future__ import annotations

import json
import os
import shutil
from math import isclose
from pathlib import Path

import pytest
from leftovers import WRITTEN, lightning, only, settled, transformers, ultralytics

from hubstate.errors import StorageError, UsageError
from hubstate.importing import Unusable, find, find_all
from hubstate.importing.found import text_of, written_at

# -- Ultralytics -----------------------------------------------------------------------------------------


def test_every_line_of_ultralytics_is_the_row_of_its_epoch():
    """Epochs count from 0, every other column is a metric with its exact value, and the time is none of them."""
    found = only(ultralytics())
    assert [(row.epoch, row.step, row.final) for row in found.rows] == [
        (epoch, None, False) for epoch in range(3)
    ]
    assert found.rows[1].metrics["train/box_loss"] == 6.60151
    assert found.rows[2].metrics["lr/pg0"] == 0.00068
    assert {"epoch", "time"} & found.rows[0].metrics.keys() == set()
    assert len(found.rows[0].metrics) == 13


def test_times_of_ultralytics_are_counted_back():
    """The last row was written when the file was, the others before it as the column `time` tells."""
    found = only(ultralytics())
    assert [row.at for row in found.rows] == pytest.approx(
        [WRITTEN - 0.826058 + elapsed for elapsed in (0.225936, 0.548982, 0.826058)]
    )
    assert found.opened_at == pytest.approx(WRITTEN - 0.826058)
    assert "column `time`" in found.times


def test_a_resumed_run_of_ultralytics_counts_on():
    """Where `time` begins anew, the later rows are later still."""
    folder = ultralytics()
    (folder / "results.csv").write_text("epoch,time,loss\n1,10,3\n2,20,2\n3,7,1\n")
    settled(folder)
    assert [WRITTEN - row.at for row in only(folder).rows] == pytest.approx([17, 7, 0])


def test_a_table_without_times_says_so():
    """Rows of a file that tells no times have the time of the file, in so many words."""
    folder = ultralytics()
    (folder / "results.csv").write_text("epoch,loss\n1,3\n2,2\n")
    settled(folder)
    found = only(folder)
    assert {row.at for row in found.rows} == {WRITTEN}
    assert "tells no times" in found.times


def test_the_settings_of_ultralytics_leave_out_what_is_private():
    """Numbers and short words come along, paths do not; the planned epochs are known."""
    found = only(ultralytics())
    assert found.epochs == 3
    assert found.config["lr0"] == 0.01
    assert found.config["optimizer"] == "auto"
    assert "save_dir" not in found.config


def test_the_weights_of_ultralytics_are_the_newest_and_the_final_one():
    """`last.pt` is of the last epoch, `best.pt` of the first one with the best measure; both with their kinds."""
    folder = ultralytics()
    head = "epoch,time,metrics/mAP50(B),metrics/mAP50-95(B),metrics/mAP50-95(M)\n"
    (folder / "results.csv").write_text(f"{head}1,1,0.9,0.1,0.1\n2,2,0.1,0.3,0.2\n3,3,0.1,0.2,0.3\n")
    last, best = only(folder).files
    assert (last.path.name, last.epoch, last.final) == ("last.pt", 2, False)
    assert (best.path.name, best.epoch, best.fitness, best.final) == ("best.pt", 1, 0.5, True)


@pytest.mark.parametrize(
    ("head", "lines", "epoch"),
    [
        ("metrics/accuracy_top1,metrics/accuracy_top5", ["0.5,0.9", "0.8,0.8", "0.7,0.85"], 1),
        ("metrics/mIoU", ["0.5", "nan", "0.7"], 2),
        ("train/loss", ["3", "2", "1"], 2),
    ],
)
def test_what_the_best_weights_are_chosen_by_follows_the_task(head, lines, epoch):
    """Accuracies and mIoU choose the best epoch; where nothing does, the newest stands for it."""
    folder = ultralytics()
    rows = "".join(f"{number},{line}\n" for number, line in enumerate(lines, 1))
    (folder / "results.csv").write_text(f"epoch,{head}\n{rows}")
    assert only(folder).files[-1].epoch == epoch


@pytest.mark.parametrize(("epochs", "drawn", "finished"), [(3, 0, 1), (9, 0, 0), (9, 1, 1)])
def test_a_run_of_ultralytics_is_finished_only_if_its_files_say_so(epochs, drawn, finished):
    """All planned epochs, or the picture that is drawn at the end, make it finished; else the reason tells the counts."""
    folder = ultralytics()
    text = (folder / "args.yaml").read_text()
    (folder / "args.yaml").write_text(text.replace("epochs: 3\n", f"epochs: {epochs}\n", 1))
    if not drawn:
        (folder / "results.png").unlink()
    found = only(folder)
    assert (found.unfinished == "") == bool(finished)
    if not finished:
        assert "of 9 epochs results.csv holds 3" in found.unfinished
        assert [file.path.name for file in found.files] == ["best.pt", "last.pt"]


def test_an_older_table_is_read_too():
    """Names padded with blanks, and epochs that count from 0, as older releases wrote them."""
    folder = Path("exp")
    folder.mkdir()
    head = "                  epoch,         train/box_loss,       metrics/mAP_0.5"
    (folder / "results.csv").write_text(
        f"{head}\n                  0,       0.5,      nan\n   1,  0.25, inf\n"
    )
    found = only(folder)
    assert [(row.epoch, row.metrics, row.nonfinite) for row in found.rows] == [
        (0, {"train/box_loss": 0.5, "metrics/mAP_0.5": None}, {"metrics/mAP_0.5": "NaN"}),
        (1, {"train/box_loss": 0.25, "metrics/mAP_0.5": None}, {"metrics/mAP_0.5": "Infinity"}),
    ]
    assert found.epochs is None


def test_what_cannot_be_read_of_a_table_is_named():
    """A field that is no number, a line of another length, one without an epoch, and a torn last line are told, the rest is taken."""
    folder = ultralytics()
    (folder / "results.csv").write_text("epoch,loss,acc\n1,2,oops\n2,1\n,3,3\n-4,3,3\n5,0.5,1\n6,0.25")
    found = only(folder)
    assert [(row.epoch, row.metrics) for row in found.rows] == [
        (0, {"loss": 2}),
        (4, {"loss": 0.5, "acc": 1}),
    ]
    told = "\n".join(found.notes)
    assert "line 2, acc: 'oops' is no number" in told
    assert "line 3: 2 fields where the head has 3" in told
    assert told.count("names no epoch") == 2
    assert "its last line has no end" in told


def test_numbers_that_are_no_epoch_and_no_time_cost_their_line_alone():
    """NaN, infinities and what is too big are named where an epoch or a step should be; as times they tell nothing."""
    folder = ultralytics()
    (folder / "results.csv").write_text(
        "epoch,time,loss\n1,1e308,2\nnan,2,1\ninf,3,1\n1e300,4,1\n2,1e308,1\n"
    )
    (folder / "args.yaml").write_text(f"epochs: {10**30}\n")
    found = only(settled(folder))
    assert [(row.epoch, row.at) for row in found.rows] == [(0, WRITTEN), (1, WRITTEN)]
    assert "".join(found.notes).count("names no epoch") == 3
    assert (found.opened_at, found.epochs) == (WRITTEN, None)
    folder = lightning()
    (folder / "metrics.csv").write_text("epoch,step,a\n0,1,1\n0,inf,1\nnan,2,1\n0,1e300,1\n")
    found = only(folder)
    assert [row.epoch for row in found.rows] == [0]
    assert len([note for note in found.notes if "is left out" in note]) == 3


def test_a_file_without_a_time_of_its_own_is_of_the_beginning():
    """Where the file's own time is lost (0), the training did not begin before all times."""
    found = only(settled(ultralytics(), at=0.0))
    assert found.opened_at == 0.0


def test_settings_that_cannot_be_read_are_named():
    """A broken or odd `args.yaml` costs the configuration alone, and the reason is told."""
    folder = ultralytics()
    for text, reason in (
        ("a: [", "cannot be read"),
        ("- 1\n", "holds no settings"),
        ("[" * 5_000, "cannot be read"),
        ("!!python/object:os.system x", ""),
    ):
        (folder / "args.yaml").write_text(text)
        found = only(folder)
        assert len(found.rows) == 3
        assert (dict(found.config), found.epochs) == ({}, None)
        assert not reason or reason in "".join(found.notes)


# -- Lightning -------------------------------------------------------------------------------------------


def test_lines_of_lightning_are_rows_of_steps_and_of_epochs():
    """What is measured once an epoch is in the row behind the steps of that epoch; the rest are rows of steps."""
    found = only(lightning())
    assert [(row.epoch, row.step) for row in found.rows] == [
        (epoch, step) for epoch in range(3) for step in (*range(8 * epoch + 1, 8 * epoch + 9, 2), None)
    ]
    assert found.rows[0].metrics == {"train_loss_step": 3.328195333480835}
    assert found.rows[4].metrics == {
        "val_loss": 0.0914437472820282,
        "train_loss_epoch": 2.2944693565368652,
    }
    assert {row.at for row in found.rows} == {WRITTEN}


def test_lightning_does_not_tell_an_end():
    """Nobody invents that the training came to its end; settings with objects of Python are read without them."""
    found = only(lightning())
    assert "does not tell" in found.unfinished
    assert dict(found.config) == {"lr": 0.1}
    assert found.notes == ("older checkpoints are left where they are: epoch=1-step=16.ckpt",)
    (file,) = found.files
    assert (file.path.name, file.epoch) == ("epoch=2-step=24.ckpt", 2)


def test_odd_lines_of_lightning_are_named():
    """Lines without a step or with what is no number are told; an epoch that is not named is that of the line before."""
    folder = lightning()
    (folder / "metrics.csv").write_text(
        "epoch,step,a,b_step\n1,1,,2\n,2,3,x\n1,,3,3\n1.5,4,1,1\n,3,,\n2,5,1,\n"
    )
    shutil.rmtree(folder / "checkpoints")
    found = only(folder)
    assert [(row.epoch, row.step, row.metrics) for row in found.rows] == [
        (1, 1, {"b_step": 2}),
        (1, None, {"a": 3}),
        (2, None, {"a": 1}),
    ]
    assert len(found.notes) == 3
    assert found.files == ()


# -- Transformers ----------------------------------------------------------------------------------------


def test_the_log_of_transformers_is_rows_of_steps_and_of_epochs():
    """Losses are rows of their steps, evaluations at ends of epochs and the summary are rows of those epochs."""
    found = only(transformers())
    assert [(row.epoch, row.step) for row in found.rows] == [
        (0, 2),
        (0, 4),
        (0, None),
        (1, 6),
        (1, 8),
        (1, None),
        (2, 10),
        (2, 12),
        (2, None),
        (2, None),
    ]
    assert found.rows[2].metrics["eval_loss"] == 17.026578903198242
    assert found.rows[-1].metrics["train_loss"] == 17.025628089904785
    assert not any(row.final for row in found.rows)
    assert (found.name, found.epochs, found.unfinished) == ("squares", 3, "")
    assert found.config["train_batch_size"] == 16


def test_checkpoints_of_transformers_are_folders():
    """The best one, here also the newest, comes once, judged by the loss: the smaller, the better."""
    (file,) = only(transformers()).files
    assert (file.path.name, file.epoch, file.fitness) == ("checkpoint-12", 2, -17.020328521728516)


def test_a_best_checkpoint_that_is_older_comes_first():
    """The best and the newest are two where they differ; a larger measure is better where the best is the largest."""
    folder = transformers()
    state = json.loads((folder / "trainer_state.json").read_text())
    state["best_model_checkpoint"], state["best_metric"] = "/elsewhere/checkpoint-8", 17.026578903198242
    (folder / "trainer_state.json").write_text(json.dumps(state))
    assert [(file.path.name, file.epoch, file.fitness) for file in only(folder).files] == [
        ("checkpoint-8", 1, 17.026578903198242),
        ("checkpoint-12", 2, None),
    ]


def test_a_training_of_transformers_that_stands_is_not_finished():
    """Of a Trainer that was killed the newest checkpoint tells; what it lacks of its steps is the reason."""
    folder = transformers()
    (folder / "trainer_state.json").unlink()
    shutil.rmtree(folder / "checkpoint-12")
    found = only(folder)
    assert len(found.rows) == 6
    assert found.unfinished == "it stands at step 8 of 12"


def test_an_evaluation_behind_the_summary_is_the_final_row():
    """What was measured after the training is marked so; NaN and infinities, which Python writes bare, are values."""
    folder = transformers()
    text = (folder / "trainer_state.json").read_text()
    state = json.loads(text)
    state["log_history"].append({"epoch": 3.0, "step": 12, "eval_loss": float("nan")})
    (folder / "trainer_state.json").write_text(json.dumps(state))
    row = only(folder).rows[-1]
    assert (row.epoch, row.final, row.metrics, row.nonfinite) == (
        2,
        True,
        {"eval_loss": None},
        {"eval_loss": "NaN"},
    )


def test_a_log_of_ends_of_epochs_alone_has_no_steps():
    """With `logging_strategy="epoch"` the losses belong to the rows of the epochs."""
    folder = transformers()
    state = json.loads((folder / "trainer_state.json").read_text())
    state["log_history"] = [entry for entry in state["log_history"] if entry["epoch"] == int(entry["epoch"])]
    (folder / "trainer_state.json").write_text(json.dumps(state))
    assert all(row.step is None for row in only(folder).rows)


# -- finding them ----------------------------------------------------------------------------------------


def test_several_trainings_below_a_folder_are_found():
    """Every training below is found once, with its tool; what is hidden, and what another tool left, is none."""
    ultralytics(Path("all/runs/train"))
    lightning(Path("all/logs/version_0"))
    transformers(Path("all/out"))
    ultralytics(Path("all/.trash/train"))
    Path("all/data").mkdir()
    Path("all/data/results.csv").write_text("name,score\na,1\n")
    Path("all/data/metrics.csv").write_text("name,score\na,1\n")
    found = {str(one.folder): getattr(one, "tool", None) for one in find(Path("all"))}
    assert found == {
        "all/logs/version_0": "Lightning",
        "all/out": "Transformers",
        "all/runs/train": "Ultralytics",
    }


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("results.csv", b"epoch,\xff\n", "is no text"),
        ("metrics.csv", b'step,"a\n', "is no line of a table"),
        ("trainer_state.json", b"{", "is no state of a Trainer"),
        ("trainer_state.json", b'{"log_history": 3}', "is no state of a Trainer"),
    ],
)
def test_what_cannot_be_read_at_all_is_named_and_hides_nothing(name, text, reason):
    """A training whose file is broken is told with its path; those beside it are found."""
    Path("broken").mkdir()
    Path("broken", name).write_bytes(text)
    ultralytics(Path("fine"))
    first, second = find(Path())
    assert isinstance(first, Unusable)
    assert reason in first.reason
    assert f"broken/{name}" in first.reason
    assert not isinstance(second, Unusable)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read_is_named():
    """A file without the right to read it is told as such."""
    folder = ultralytics()
    (folder / "results.csv").chmod(0)
    (one,) = find(folder)
    assert isinstance(one, Unusable)


def test_a_folder_that_cannot_be_looked_into_is_named(monkeypatch):
    """A folder that may hold a training and is closed is told with its path; those beside it are found."""
    Path("all/closed").mkdir(parents=True)
    ultralytics(Path("all/train"))
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    told, found = find(Path("all"))
    assert told == Unusable(Path("all/closed"), "cannot look into all/closed: Permission denied")
    assert not isinstance(found, Unusable)


def test_a_training_that_is_named_twice_is_one():
    """Folders that lie in one another, or are given twice, hold each training once."""
    folder = ultralytics()
    assert len(find_all([Path("runs"), folder, folder.resolve(), Path("runs/detect")])) == 1


def test_a_folder_that_is_not_there_is_a_mistake():
    """A mistyped folder is named."""
    with pytest.raises(UsageError, match="there is no folder nowhere"):
        list(find(Path("nowhere")))


def test_looking_changes_nothing():
    """No file of the training is touched by looking at it."""
    folder = transformers()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    only(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert all(isclose(at, WRITTEN * 1e9) for at in before.values())


def test_a_file_that_is_gone_is_told():
    """A file that goes while it is looked at is told as one that cannot be read."""
    with pytest.raises(StorageError, match=r"cannot read gone\.csv: No such file"):
        text_of(Path("gone.csv"))
    with pytest.raises(StorageError, match=r"cannot look at gone\.csv: No such file"):
        written_at(Path("gone.csv"))
