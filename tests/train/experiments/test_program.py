"""The experiments on tiny runs: stopped, resumed, failed, changed; and their registry."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from train.__main__ import main as program
from train.cli.checks import check
from train.config import ResolvedConfig
from train.engine import checkpoint
from train.engine.run import Run
from train.experiments.conditions import EXPERIMENTS
from train.tasks.reid.figures import write_figures

TINY = ["--epochs", "2", "--train-images", "16", "--seeds", "2", "--jobs", "2"]
PAIR = ["--only", "none", "cutout-16"]
CONTROL = "cutout-16-early-head"


@pytest.fixture(scope="module", autouse=True)
def _quick_processes(warm_python: str) -> Iterator[None]:
    """The runs of an experiment are processes, which import for longer than they train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python)
        yield


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment with two conditions, both seeds of each done."""
    folder = tmp_path_factory.mktemp("finished")
    assert program(["experiment", "keepaugment", "--data", str(shapes), "--out", str(folder), *TINY, *PAIR]) == 0
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def options(shapes: Path, out: Path) -> list[str]:
    return ["keepaugment", "--data", str(shapes), "--out", str(out), *TINY]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_a_table_and_what_stands_under_it(
    options: list[str], out: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, text = results(out), (out / "table.md").read_text()
    assert [*result["conditions"]] == ["none", "cutout-16"]
    for name, condition in result["conditions"].items():
        for seed in (0, 1):
            lines = (out / name / f"seed{seed}" / "log.jsonl").read_text().splitlines()
            first, last = map(json.loads, lines)
            assert "val_top1" not in first
            assert condition["runs"][str(seed)] == {
                "value": last["val_top1"],
                "rank1": None,
                "evaluation": None,
                "seconds": pytest.approx(first["seconds"] + last["seconds"]),
                "seconds_per_epoch": pytest.approx((first["seconds"] + last["seconds"]) / 2),
                "maps": None,
                "prices": None,
                "region_area": None,
            }
            config = ResolvedConfig.load(out / name / f"seed{seed}" / "config.yaml")
            assert (config.seed, config.epochs, config.train_images) == (seed, 2, 16)
            assert (config.method, config.region_size) == (("none", 20) if name == "none" else ("cutout", 16))
    assert result["environment"]["python"]
    assert result["settings"]["validation_images"] == 16
    assert "| cutout-16 | " in text
    assert "1 comparison, without a correction" in text
    assert str(out.parent) not in text
    assert result["command"] == (
        f"python -m train experiment keepaugment --data {Path(options[2]).name} --model small --epochs 2 "
        "--train-images 16 --seeds 2 --jobs 2 --only none cutout-16"
    )
    assert f"`{result['command']}`" in text

    # again: nothing is left to run
    monkeypatch.setattr(subprocess, "Popen", None)
    assert program(["experiment", *options, *PAIR]) == 0
    assert results(out)["conditions"] == result["conditions"]
    assert (out / "table.md").read_text() in capsys.readouterr().out


def test_re_identification(tmp_path: Path) -> None:
    """By mAP, with rank-1 beside it; the same command again has nothing left to run."""
    data, folder = tmp_path / "figures", tmp_path / "out"
    write_figures(data, train=16, test=2, distractors=1, cameras=2)
    command = ["experiment", "reid", "--data", str(data), "--out", str(folder), "--epochs", "1", "--seeds", "1"]
    size = {"image_size": (16, 8), "batch_images": 2, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        conditions = EXPERIMENTS["reid"].conditions[1:]
        small = tuple(c._replace(options=c.options | size) for c in conditions)
        patch.setitem(EXPERIMENTS, "reid", EXPERIMENTS["reid"]._replace(conditions=small, further=()))
        assert program(command) == 0
        patch.setattr(subprocess, "Popen", None)
        assert program(command) == 0
    result, text = results(folder), (folder / "table.md").read_text()
    for name in ("random_erasing", "keep_random_erasing"):
        log = (folder / name / "seed0" / "log.jsonl").read_text().splitlines()
        own, last = result["conditions"][name]["runs"]["0"], json.loads(log[-1])
        assert (own["value"], own["rank1"]) == (last["val_map"], last["val_rank1"])
    difference = result["conditions"]["keep_random_erasing"]["difference"]["mean"]
    values = [result["conditions"][name]["runs"]["0"]["value"] for name in ("keep_random_erasing", "random_erasing")]
    assert difference == pytest.approx(values[0] - values[1])
    assert "| condition | mAP, % |" in text
    assert "| rank-1, % |" in text
    assert "mAP after the last epoch (never the best one) on 4 queries of other identities;" in text


def test_data_is_required_but_for_the_embedded_figures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["experiment", "keepaugment", "--out", str(tmp_path)]) == 2
    assert "--data is required: this experiment has no embedded images" in capsys.readouterr().err


def test_stopped_and_resumed(options: list[str], tmp_path: Path) -> None:
    """A signal to the program alone: it stops the runs, and the same command ends them."""
    folder = tmp_path / "stopped"
    many = [*options, "--out", str(folder), "--seeds", "1", "--epochs", "40", *PAIR]
    logs = [folder / name / "seed0" / "log.jsonl" for name in PAIR[1:]]
    command = [sys.executable, "-m", "train", "experiment", *many]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any(log.exists() for log in logs) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "To resume, run the same command again" in errors
    assert "| none | missing | missing |" in output
    begun = [log.parent for log in logs if log.exists()]
    epochs = [checkpoint.load(run / "last.pt")["progress"]["epoch"] for run in begun]
    assert all(0 < epoch < 40 for epoch in epochs)
    assert all("Interrupted; the state is in" in (run / "output.txt").read_text() for run in begun)

    assert program(["experiment", *many]) == 0
    for run, epoch in zip(begun, epochs, strict=True):
        assert f"resuming in epoch {epoch + 1} after" in (run / "output.txt").read_text()
    for log in logs:
        assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [*range(1, 41)]
    assert all(condition["runs"] for condition in results(folder)["conditions"].values())


def test_the_agreement_is_measured_after_training(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A finished run whose measurement is damaged is measured alone, one that is begun anew is measured again."""
    options = ["consistency", "--data", str(shapes), "--out", str(tmp_path), *TINY, "--seeds", "1"]
    assert program(["experiment", *options, "--only", "cutout-*"]) == 0
    folders = [tmp_path / name / "seed0" for name in ("cutout-class", "cutout-saliency")]
    measured = [json.loads((folder / "agreement.json").read_text()) for folder in folders]
    rows = results(tmp_path)["conditions"]
    for folder, result in zip(folders, measured, strict=True):
        assert (result["method"], result["policy"], result["images"]) == ("cutout", None, 16)
        maps = rows[folder.parent.name]["runs"]["0"]["maps"]
        assert maps == [result[name]["mean"] for name in ("own", "unrelated")]
        assert 0 < maps[0] < maps[1]
        config = ResolvedConfig.load(folder / "config.yaml")
        assert config.consistency == ((1, 0, 0) if folder is folders[0] else (1, 0, 1))
        assert ("train_saliency_loss" in (folder / "log.jsonl").read_text()) == (folder is folders[1])
    text = (tmp_path / "table.md").read_text()
    assert f"| {1e3 * measured[1]['own']['mean']:.2f} | {1e3 * measured[1]['unrelated']['mean']:.2f} |\n" in text
    assert "Disagreement: the saliency loss" in text

    log = (folders[0] / "log.jsonl").read_text()
    (folders[0] / "agreement.json").write_text(json.dumps(measured[0] | {"own": {"mean": "0"}}))
    capsys.readouterr()
    shutil.rmtree(folders[1])
    (folders[1]).mkdir()
    (folders[1] / "agreement.json").write_text("{}")
    assert program(["experiment", *options, "--only", "cutout-*"]) == 0
    assert f"warning: {folders[0]}/agreement.json is damaged, or" in capsys.readouterr().err
    assert (folders[0] / "log.jsonl").read_text() == log
    assert [json.loads((folder / "agreement.json").read_text()) for folder in folders] == measured


def test_a_damaged_log_is_named(options: list[str], out: Path, capsys: pytest.CaptureFixture) -> None:
    log = out / "none" / "seed0" / "log.jsonl"
    whole = log.read_text()
    records = [json.loads(line) for line in whole.splitlines()]
    for line, name in ((1, "seconds"), (len(records), "val_top1")):
        damaged = [{**r, name: "1"} if number == line else r for number, r in enumerate(records, 1)]
        log.write_text("".join(json.dumps(record) + "\n" for record in damaged))
        assert program(["experiment", *options, "--seeds", "1", "--only", "none"]) == 2
        assert f"{log}, line {line}: has no number '{name}'; remove {log.parent}" in capsys.readouterr().err
    log.write_text(whole)


def test_a_run_that_fails(options: list[str], out: Path, capsys: pytest.CaptureFixture) -> None:
    """The other goes on, and joins the table of what was there before."""
    folder = out / "none" / "seed0"
    (folder / "log.jsonl").unlink()
    shutil.copy(out / "cutout-16" / "seed0" / "last.pt", folder / "last.pt")
    assert program(["experiment", *options, "--seeds", "1", "--only", "none", "*-early-head"]) == 1
    failure = "cannot resume: --method is cutout in the checkpoint, none on the command line"
    assert f"none seed 0 failed (exit status 2): error: {failure}" in capsys.readouterr().err
    text = (out / "table.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| ")]
    top1 = [f"{results(out)['conditions'][name]['runs']['0']['value']:.2f}" for name in (PAIR[2], CONTROL)]
    assert rows[2:] == [["none", "missing", "missing"], [PAIR[2], top1[0], top1[0]], [CONTROL, top1[1], top1[1]]]
    assert "the data supports no difference" in text
    # the head of the control is trained, though its map is not used
    state = checkpoint.load(out / CONTROL / "seed0" / "last.pt")
    begun = Run(ResolvedConfig.from_dict(state["config"])).state_dict()["early_head"]
    assert all((begun[name] != trained).any() for name, trained in state["early_head"].items())


def test_changed_settings_and_wrong_ones(
    options: list[str], out: Path, capsys: pytest.CaptureFixture, shapes: Path
) -> None:
    one = [*options, "--seeds", "1", "--only", "none"]
    assert program(["experiment", *one]) == 0
    before = results(out)
    assert program(["experiment", *one, "--train-images", "24"]) == 2
    message = capsys.readouterr().err
    assert f"{out}/none/seed0 holds a run with other settings (train_images was 16, is 24)" in message
    assert program(["experiment", *one, "--jobs", "1"]) == 0  # another number of threads is the same run
    assert results(out)["conditions"] == before["conditions"]

    assert program(["experiment", *one, "--train-images", "49"]) == 2
    assert "--train-images must be from 8, one of each class, to 48, all that" in capsys.readouterr().err
    assert program(["experiment", *one, "--data", str(shapes / "train")]) == 2
    assert "images that were not trained on" in capsys.readouterr().err
    assert program(["experiment", *one, "--model", "smal"]) == 2
    assert "the closest names are small" in capsys.readouterr().err
    assert program(["experiment", *one, "--only", "cutut*"]) == 2
    assert "--only cutut*: no such condition; there are none, cutout-16" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program(["experiment", *one, "--seeds", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_a_run_is_not_begun_twice_at_once(options: list[str], out: Path, capsys: pytest.CaptureFixture) -> None:
    folder = out / "none" / "seed0"
    (folder / "log.jsonl").unlink()
    with open(folder / "output.txt", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert program(["experiment", *options, "--only", "none"]) == 2
    assert f"{folder}: this run is still under way in another process" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_registry(name: str) -> None:
    """Every condition is a legal run, no two are the same, and each baseline is there, above what it is for."""
    conditions = EXPERIMENTS[name].conditions
    names = [c.name for c in conditions]
    assert len(set(names)) == len(names)
    configs = [EXPERIMENTS[name].config(**c.options) for c in conditions]
    for config in configs:
        check(config)
    assert not any(a == b for i, a in enumerate(configs) for b in configs[:i])
    for place, condition in enumerate(conditions):
        assert condition.baseline is None or condition.baseline in names[:place]


def test_keepaugment_has_the_published_figures() -> None:
    conditions = {c.name: c for c in EXPERIMENTS["keepaugment"].conditions}
    assert len(conditions) == 15
    assert {name: c.published for name, c in conditions.items() if c.published} == {
        "cutout-16": 95.6, "cutout-20": 95.5, "keep_cutout-full-16": 96.1, "keep_cutout-full-20": 96.0,
        "keep_cutout-low-16": 96.2, "keep_cutout-early-16": 96.0,
    }  # fmt: skip
    assert {name: c.baseline for name, c in conditions.items() if c.baseline != "none"} == {
        "none": None, "cutout-16-early-head": "cutout-16",
        **{f"keep_cutout-{p}-{s}": f"cutout-{s}" for p in ("full", "low", "early", "both") for s in (16, 20)},
        "keep_randaugment-low-16": "randaugment", "keep_randaugment-low-20": "randaugment",
    }  # fmt: skip
