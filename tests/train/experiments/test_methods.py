"""Which method for which data: a tiny comparison from search to figure, resumed; its sizes, rows, table and errors."""

import io
import itertools
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_salaug import METHODS
from train.__main__ import main as program
from train.analysis.evaluation.drawing import new_figure
from train.benchmarks.whole_steps import beside_plain_steps
from train.config import ResolvedConfig
from train.engine.files import write_yaml
from train.errors import UserError
from train.experiments.comparison import Condition, Outcome
from train.experiments.methods import cost, figure, plan
from train.experiments.methods.plan import DOZEN, best_rate, condition_of, plain_form, setting_of
from train.experiments.methods.report import result_of, text_of
from train.experiments.tasks import Task

SIZES: dict[str, Any] = {
    "epochs": None, "train_images": None, "image_size": None, "batch_size": 64, "optimizer": None, "amp": "off",
    "rates": None,
}  # fmt: skip
TINY = ["--train-images", "16", "--epochs", "1", "--image-size", "32", "--batch-size", "8", "--seeds", "1"]
TINY += ["--jobs", "1", "--corruption-images", "0"]


class Ended:
    """In place of the process of a run: one that has ended."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode


def run_here(task: Task, threads: int) -> Ended:
    """Run what `Task.start` starts in this process, which has imported everything."""
    task.folder.mkdir(parents=True, exist_ok=True)
    return Ended(program(task._measuring() if task.unmeasured() else task._training(threads)))


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The command line of a comparison of none and KeepCutout by a remembered map, which is done, and its folder."""
    out = tmp_path_factory.mktemp("methods")
    words = ["experiment", "methods", "--data", str(shapes), "--out", str(out), *TINY]
    words += ["--methods", "keep_cutout-memory", "--rates", "0.5", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "start", run_here)
        tiny = Image.new("RGB", (1, 1))
        patch.setattr("train.tasks.classification.task.write_figure", lambda *given, **_: tiny.save(given[-1]))
        patch.setattr(plan, "SEARCHED", ("none",))
        patch.setattr(cost, "WARM_UP", 0)
        patch.setattr(cost, "BATCHES", 1)
        patch.setattr(cost.measure, "__kwdefaults__", {"turns": 1})
        assert program(words) == 0
    return words, out


def test_from_the_search_to_the_figure(finished: tuple[list[str], Path], shapes: Path) -> None:
    _, out = finished
    (result,) = json.loads((out / "results.json").read_text())["results"]
    place = out / shapes.name / "small"
    rates = result["search"]["rates"]
    searched = {}
    for rate in rates:  # on training images that are held out, with a seed of its own
        folder = place / "search" / f"none-{rate:g}" / "seed1000"
        config = ResolvedConfig.load(folder / "config.yaml")
        assert (config.held_out, config.train_images, config.lr) == (9, 16, rate)
        searched[rate] = json.loads((folder / "log.jsonl").read_text())["val_top1"]
    best = max(rates, key=searched.__getitem__)
    assert result["search"]["chosen"] == (rates[0] if len(set(searched.values())) == 1 else best)
    assert list(result["rows"]) == ["none", "keep_cutout-memory"]
    for name, row in result["rows"].items():
        folder = place / "runs" / name / "seed0"
        config = ResolvedConfig.load(folder / "config.yaml")
        assert (config.lr, config.held_out) == (result["search"]["chosen"], None)
        assert config.saliency == ("gradient" if name == "none" else "memory")
        log, measured = (
            json.loads((folder / "log.jsonl").read_text()),
            json.loads((folder / "evaluate.json").read_text()),
        )
        assert row["metrics"]["top1"]["seeds"] == {"0": pytest.approx(log["val_top1"], abs=1e-3)}
        error = measured["runs"][0]["calibration"]["error"]
        assert row["metrics"]["calibration"]["mean"] == pytest.approx(100 * error)
        assert row["metrics"]["corruption"]["mean"] is None  # not asked for
        assert row["cost"]["median"] > 0
    text = (out / "table.md").read_text()
    assert f"## {shapes.name}, small" in text
    assert "Each run: 16 images of 32×32 pixels, 1 epoch, sgd, batches of 8." in text
    assert str(out.parent) not in text
    with Image.open(out / "figure.png") as image:
        assert image.size[0] > 400


def test_again(
    finished: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Nothing is left to run or to measure; with another set of corruptions, the evaluation alone is."""
    words, out = finished
    monkeypatch.setattr(plan, "SEARCHED", ("none",))
    monkeypatch.setattr(Task, "start", lambda *_: pytest.fail("a finished run is not started again"))
    monkeypatch.setattr(cost, "measure", lambda *_: pytest.fail("measured steps are not measured again"))
    before = json.loads((out / "results.json").read_text())
    assert program(words) == 0
    assert json.loads((out / "results.json").read_text())["results"][0]["rows"] == before["results"][0]["rows"]
    assert "| keep_cutout-memory | 1 |" in capsys.readouterr().out

    started: list[str] = []

    def start(task: Task, threads: int) -> None:
        started.extend(task._measuring() if task.unmeasured() else task._training(threads))
        raise UserError("started")

    monkeypatch.setattr(Task, "start", start)
    assert program([*words, "--corruption-images", "2", "--corruptions", "fog", "contrast"]) == 2
    assert started[0] == "evaluate"
    assert started[2:7] == ["--parts", "accuracy", "calibration", "corruptions", "--corruption-images=2"]
    assert started[7:10] == ["--corruptions", "fog", "contrast"]


def test_interrupted_while_steps_are_measured(
    finished: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words, out = finished
    monkeypatch.setattr(plan, "SEARCHED", ("none",))
    path = next(out.glob("*/*/cost.json"))
    content = path.read_text()
    path.write_text(json.dumps(json.loads(content) | {"of": {"image_size": 64}}))  # of other sizes

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cost, "measure", stopped)
    assert program(words) == 130
    assert "To resume, run the same command again" in capsys.readouterr().err
    path.write_text(content)


def test_all_rows_have_one_measurement_of_the_cost(
    finished: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one is missing, or the threads are others; a batch has as many threads as a step."""
    words, out = finished
    monkeypatch.setattr(plan, "SEARCHED", ("none",))
    path = next(out.glob("*/*/cost.json"))
    content = path.read_text()
    asked: list[dict[str, Any]] = []

    def measured(configs: dict[str, Any], _: Any) -> dict[str, Any]:
        asked.append(configs)
        return json.loads(content)

    monkeypatch.setattr(cost, "measure", measured)
    missing, others = json.loads(content), json.loads(content)
    del missing["batches"]["keep_cutout-memory"]
    others["of"]["threads"] = 99
    for known in (missing, others):
        path.write_text(json.dumps(known))
        assert program(words) == 0
        found, expected = json.loads(path.read_text()), json.loads(content)
        for name in ("plain", "steps", "ratios", "batches"):
            assert found[name] == expected[name]  # nothing is left of the one before
    assert [[*configs] for configs in asked] == 2 * [["none", "keep_cutout-memory"]]
    assert {config.workers for configs in asked for config in configs.values()} == {torch.get_num_threads()}
    path.write_text(content)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--methods", "cutmx"],
            "--methods cutmx: no such method; legal are none, .*, and NAME-memory; or all, alone; did you mean cutmix?",
        ),
        (["--methods", "cutmix-memory"], "--methods cutmix-memory: cutmix uses no map of each image"),
        (["--rates", "1", "0"], "--rates must be finite numbers above 0; got 1 0"),
        (["--rates", "nan"], "--rates must be finite numbers above 0; got nan"),
        (["--optimizer", "sdg"], "--optimizer must be one of sgd, adam, adamw, lamb; got 'sdg'"),
        (["--model", "smal"], "the closest names are small"),
        (["--image-size", "30", "--model", "vit_small"], "image_size must be a multiple of 8"),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert program(["experiment", "methods", "--data", str(shapes), "--out", str(tmp_path), *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_data_that_is_refused(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Validation images that were trained on; two folders of one name."""
    out = ["--out", str(tmp_path / "out")]
    assert program(["experiment", "methods", "--data", str(shapes / "train"), *out]) == 2
    assert "has no train/ and val/" in capsys.readouterr().err
    (tmp_path / shapes.name).symlink_to(shapes)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / shapes.name).mkdir()
    assert program(["experiment", "methods", "--data", str(shapes), str(tmp_path / "other" / shapes.name), *out]) == 2
    assert f"--data: two folders are called {shapes.name}" in capsys.readouterr().err


def test_the_sizes(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EPOCHS", (3, 40))
    monkeypatch.setattr(plan, "BUDGET", 12 * 48 * 64**2)
    setting = setting_of(str(shapes), "small", tmp_path, **SIZES)
    assert (setting.count, setting.resolved.image_size, setting.shared["epochs"], setting.held_out) == (48, 64, 12, 9)
    assert "train_images" not in setting.shared
    assert setting.rates == (0.0113, 0.0375, 0.113)  # around 0.2 · 48 / 256: a step has all 48 images
    assert setting_of(str(shapes), "small", tmp_path, **SIZES | {"image_size": 128}).shared["epochs"] == 3
    fewer = setting_of(str(shapes), "vit_small", tmp_path, **SIZES | {"train_images": 12, "rates": [2.0]})
    assert (fewer.count, fewer.shared["train_images"], fewer.shared["epochs"]) == (12, 12, 40)
    assert (fewer.resolved.optimizer, fewer.search()) == ("adamw", [])
    half = setting_of(str(shapes), "small", tmp_path, **SIZES | {"amp": "bfloat16"})
    assert {task.config.amp for task in half.search()} == {"bfloat16"}
    monkeypatch.setattr(plan, "LARGEST_SIDE", 32)
    assert setting_of(str(shapes), "small", tmp_path, **SIZES).resolved.image_size == 32
    tasks = setting.search()
    assert {(t.options["held_out"], t.options["train_images"], t.seed) for t in tasks} == {(9, 39, 1000)}
    assert [t.condition.name for t in tasks] == [f"{m}-{rate:g}" for rate in setting.rates for m in ("none", "cutmix")]
    table = setting.table([condition_of(name, ()) for name in ("none", "keep_cutout-memory")], 0.07, 2)
    assert [(str(t), t.config.lr, t.config.saliency) for t in table][1::2] == [
        ("keep_cutout-memory seed 0", 0.07, "memory"), ("keep_cutout-memory seed 1", 0.07, "memory")
    ]  # fmt: skip
    assert len({task.folder for task in [*tasks, *table]}) == 10


def test_the_rows() -> None:
    """Each of the dozen is legal, and each method with a map has a plain form, which has no map of each image."""
    assert len(DOZEN) == len(set(DOZEN)) == 12
    for name in DOZEN:
        assert condition_of(name, ()).baseline == (None if name == "none" else "none")
    for name, entry in METHODS.items():
        assert (plain_form(name) is None) == (not entry.maps)
        assert entry.plain is None or not METHODS[entry.plain].build(2).uses_saliency
    assert plain_form("keep_cutout-memory") == "cutout"


def test_the_best_rate() -> None:
    found = {
        0.1: {"none": 60.0, "cutmix": 50.0},
        0.3: {"none": 58.0, "cutmix": 53.0},
        0.9: {"none": 10.0, "cutmix": 90.0},
    }
    assert best_rate(found) == 0.3
    assert best_rate({0.3: {"none": 50.0}, 0.1: {"none": 50.0}}) == 0.1


def outcomes_of(values: dict[str, list[tuple[float, float]]]) -> dict[str, dict[int, Outcome]]:
    return {
        name: {
            seed: Outcome(7.0, 1.0, 1.0, evaluation={"top1": top1, "calibration": error, "corruption": None})
            for seed, (top1, error) in enumerate(runs)
        }
        for name, runs in values.items()
    }


COST = {
    "plain": [0.1, 0.1, 0.1], "ratios": {"cutout": [1.0, 1.1, 1.2], "keep_cutout": [1.5, 1.5, 1.8]}, "device": "cpu",
    "batches": {"none": [0.1, 0.1], "cutout": [0.1, 0.1], "keep_cutout": [0.2, 0.2]},
}  # fmt: skip


def test_the_table_against_plain_arithmetic(shapes: Path, tmp_path: Path) -> None:
    values = {
        "none": [(50.0, 4.0), (52.0, 5.0), (51.0, 6.0)],
        "cutout": [(53.0, 4.5), (53.0, 5.0), (56.0, 5.5)],
        "keep_cutout": [(55.0, 3.0), (54.0, 4.0), (58.0, 4.0)],
    }
    setting = setting_of(str(shapes), "small", tmp_path, **SIZES | {"rates": [1.0, 4.0]})
    conditions = [condition_of(name, ("evaluate",)) for name in values]
    tried = {0.0375: {"none": 40.0, "cutmix": 38.0}, 0.15: {"none": 43.0, "cutmix": 39.0}}
    outcomes = outcomes_of(values)
    result = result_of(setting, conditions, outcomes, tried, 0.15, COST, {})
    for metric, place in (("top1", 0), ("calibration", 1)):
        kept = np.array([run[place] for run in values["keep_cutout"]])
        for other, name in (("none", "none"), ("plain", "cutout")):
            difference = kept - [run[place] for run in values[name]]
            half = 4.302653 * difference.std(ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom
            found = result["rows"]["keep_cutout"]["metrics"][metric][f"minus_{other}"]
            assert found["mean"] == pytest.approx(difference.mean())
            assert found["interval"] == pytest.approx((difference.mean() - half, difference.mean() + half), rel=1e-5)
    text = text_of(setting, conditions, outcomes, result)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert all(len(row) == len(rows[0]) == 13 for row in rows)
    assert rows[2][:6] == ["none", "3", "", "51.00 ± 1.00", "", ""]
    assert rows[4][:3] == ["keep_cutout", "3", "cutout"]
    assert rows[4][3] == "55.67 ± 2.08"
    assert rows[4][6] == "missing"
    assert [row[-1] for row in rows[2:]] == ["100 (100 to 100)", "105 (100 to 110)", "175 (175 to 190)"]
    assert "Learning rate: 0.15, the best for the mean of none and cutmix on 9 training images" in text
    assert "0.0375: 40.0, 38.0; 0.15: 43.0, 39.0" in text
    assert "It is the greatest that was tried: widen --rates." in text
    assert rows[4][5].startswith("+1.67 [")
    assert f"- keep_cutout and cutout: {rows[4][5]}" in text or f"- keep_cutout is above cutout: {rows[4][5]}" in text


def test_the_cost_on_a_gpu_is_that_of_the_step() -> None:
    assert cost.of_a_method(COST | {"device": "cuda"}, "keep_cutout") == pytest.approx((150, 150, 180))
    assert cost.of_a_method(COST, "keep_cutout") == pytest.approx((175, 175, 190))


def test_the_figure_has_a_panel_for_each_result(shapes: Path, tmp_path: Path) -> None:
    setting = setting_of(str(shapes), "small", tmp_path, **SIZES)
    conditions = [condition_of(name, ()) for name in ("none", "cutout", "keep_cutout")]
    outcomes = outcomes_of({"none": [(50, 4)], "cutout": [(51, 4)], "keep_cutout": [(52, 4)]})
    one = result_of(setting, conditions, outcomes, {}, 0.1, COST, {})
    without = result_of(setting, conditions, outcomes, {}, 0.1, None, {})
    sizes = []
    for results in ([one], [one, without], [one, one, one]):
        drawn = figure.draw(json.loads(json.dumps(results)))
        assert drawn is not None
        with Image.open(io.BytesIO(drawn.png)) as image:
            sizes.append(image.size)
    assert sizes[0] == sizes[1] == (sizes[2][0] / 2, sizes[2][1] / 2)
    assert figure.draw([without]) is None


def test_the_names_of_a_crowd_do_not_cover_one_another() -> None:
    rows: dict[str, Any] = {
        name: {
            "cost": {"median": 100 + number % 3, "least": 99, "most": 440},
            "metrics": {"top1": {"mean": 70 + number % 2 / 10, "deviation": 1.0}},
            "plain_form": None,
            "with_saliency": bool(number % 2),
        }
        for number, name in enumerate(DOZEN)
    }
    rows["none"]["cost"]["median"] = 400
    drawing, [panel] = new_figure(1, width=figure.WIDTH, height=figure.HEIGHT)
    figure._panel(panel, {"data": "some", "model": "small"}, rows)
    drawing.canvas.draw()
    assert [text.get_text() for text in panel.texts] == sorted(rows, key=lambda name: _at(rows[name]))
    boxes = [text.get_window_extent() for text in panel.texts]
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
    marks = [panel.transData.transform(_at(row)) for row in rows.values()]
    assert not [1 for box in boxes for x, y in marks if box.contains(x, y)]


def _at(row: dict[str, Any]) -> tuple[float, float]:
    return row["cost"]["median"], row["metrics"]["top1"]["mean"]


def test_steps_are_measured_between_plain_ones() -> None:
    clock = iter(range(1, 100))
    order: list[str | None] = []

    def step(name: str | None) -> float:
        order.append(name)
        return float(next(clock))

    found = beside_plain_steps(step, ["a", "b"], turns=2, warm_up=1)
    assert order == [None, "b", None, "a", None, None, "a", None, "b", None, None, "b", None, "a", None]
    assert found["steps"] == {"a": [7.0, 14.0], "b": [9.0, 12.0]}
    assert found["ratios"]["a"] == [7 / 7, 14 / 14]
    assert found["plain"] == [6, 8, 10, 11, 13, 15]
    assert statistics.median(found["ratios"]["b"]) == 1


def test_an_evaluation_with_other_options_does_not_count(tmp_path: Path, run_of: Callable[..., Any]) -> None:
    """As where the command is run again with other corruptions."""
    config = run_of(method="none", device="cpu", epochs=1).config
    task = Task(Condition("none", {}, measured=("evaluate", "--parts", "accuracy")), 0, tmp_path, {}, config)
    write_yaml(tmp_path / "config.yaml", config.to_dict())
    (tmp_path / "log.jsonl").write_text(json.dumps({"epoch": 1, "val_top1": 50.0, "seconds": 1.0}) + "\n")
    found = {"accuracy": {"top1": 0.5}, "calibration": None}
    for command, counts in (
        ("evaluate /x --parts accuracy --json=/x/y", True),
        ("evaluate /x --parts accuracy calibration --json=/x/y", False),  # more than is asked for
        ("evaluate /x --parts attacks --json=/x/y", False),
    ):
        (tmp_path / "evaluate.json").write_text(json.dumps({"command": command, "runs": [found]}))
        assert task.unmeasured() is not counts
        outcome = task.outcome()
        assert (outcome is None) is not counts
        if outcome is not None:
            assert outcome.evaluation == {"top1": 50.0, "calibration": None, "corruption": None}
