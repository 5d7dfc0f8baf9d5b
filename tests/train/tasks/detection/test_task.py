"""Runs of detection: end to end, resumed, from the backbone of a run, and what is said where they cannot start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import DataError
from train.__main__ import main as program
from train.engine import checkpoint
from train.engine.run import Run
from train.errors import UserError
from train.models.registry import build_model


def test_a_run_is_stopped_resumed_and_measured(
    scenes: Path, quick: list[str], tmp_path: Path, same: Any, log_of: Any, stop_in_step: Any, capsys: Any
) -> None:
    words = ["detect", "--data", str(scenes), *quick]
    assert program([*words, "--out", str(tmp_path / "whole")]) == 0
    said = capsys.readouterr()
    assert "fasterrcnn_fpn on small" in said.out
    assert "best mAP" in said.out
    assert "the backbone starts from random weights" in said.err
    with stop_in_step(2, epoch=1):
        assert program([*words, "--out", str(tmp_path / "parts")]) == 130
    assert program(["detect", "--resume", "--out", str(tmp_path / "parts")]) == 0
    whole, parts = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("model", "optimizer", "scheduler"):
        assert same(whole[part], parts[part])
    log = log_of(tmp_path / "whole", timed=False)
    assert log == log_of(tmp_path / "parts", timed=False)
    names = ("loss", "classifier_loss", "box_loss", "objectness_loss", "proposal_box_loss")
    for record in log:
        assert {f"train_{name}" for name in names} <= record.keys()
        assert 0 <= record["val_map"] <= record["val_map50"] <= 100
        assert 0 <= record["val_map75"] <= record["val_map50"]
        assert record["train_loss"] == pytest.approx(sum(record[f"train_{name}"] for name in names[1:]), abs=1e-4)
    assert log[1]["train_loss"] < log[0]["train_loss"]
    best = checkpoint.load(tmp_path / "whole" / "best.pt")
    assert best["val_map"] == pytest.approx(max(record["val_map"] for record in log), abs=1e-5)


@pytest.mark.pictures
def test_pictures_change_nothing(detection_of: Callable[..., Run], tmp_path: Path, same: Any) -> None:
    run = detection_of()
    before, state = run.state_dict(), torch.get_rng_state()
    run.task.draw(run.network, run.objective, tmp_path / "augmentations.png")
    assert same(before, run.state_dict())
    assert torch.equal(state, torch.get_rng_state())
    assert run.network.model.training
    for name in ("augmentations.png", "detections.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300


def _classifier(run_of: Callable[..., Run], folder: Path, **options: Any) -> Run:
    """A run of classification whose best.pt is in a folder, without a step."""
    run = run_of(**options)
    for parameter in run.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    folder.mkdir()
    checkpoint.save(run.best_state_dict(), folder / checkpoint.BEST)
    return run


def test_the_backbone_is_that_of_a_run(
    run_of: Callable[..., Run], detection_of: Callable[..., Run], tmp_path: Path
) -> None:
    run = _classifier(run_of, tmp_path / "run", model="small", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    detection = detection_of(backbone=str(tmp_path / "run"), ema=0.9, epochs=1)
    assert detection.config.model == "small"
    assert (detection.train_loader.mean, detection.train_loader.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    own = run.model.state_dict()
    prefix = "detector.backbone.body.features."
    for model in (detection.network.model, detection.network.validated):
        state = model.state_dict()
        used = [name for name in state if name.startswith(prefix)]
        assert len(used) > 20
        assert all(torch.equal(state[name], own[name.removeprefix(prefix)]) for name in used)
    trained = {name for name, p in detection.network.model.named_parameters() if p.requires_grad}
    of_body = {name.removeprefix(prefix) for name in trained if name.startswith(prefix)}
    assert {name.split(".")[0] for name in of_body} == {"2", "3", "5", "6", "8", "9"}  # three of four stages
    assert {own[name].ndim for name in of_body} == {4}  # BatchNorm is frozen
    before = {name: buffer.clone() for name, buffer in detection.network.model.named_buffers()}
    detection.train_step(iter(detection.train_loader))
    after = dict(detection.network.model.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before if "body" in name)


def test_the_backbone_may_be_a_state_dict_and_is_named_where_it_does_not_fit(
    detection_of: Callable[..., Run], tmp_path: Path
) -> None:
    model = build_model("small", 11, None)
    torch.save(model.state_dict(), tmp_path / "small.pt")
    detection = detection_of(backbone=str(tmp_path / "small.pt"))
    state = detection.network.model.state_dict()
    assert torch.equal(state["detector.backbone.body.features.9.body.0.0.weight"], model[9].body[0][0].weight)  # type: ignore[index, union-attr]
    with pytest.raises(UserError, match=r"small\.pt: its weights are not those of --model resnet18_cifar: conv1"):
        detection_of(backbone=str(tmp_path / "small.pt"), model="resnet18_cifar")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match=r"--backbone .*text\.pt: no weights that can be read"):
        detection_of(backbone=str(tmp_path / "text.pt"))
    with pytest.raises(UserError, match=r"--backbone .*nothing: cannot be read: No such file"):
        detection_of(backbone=str(tmp_path / "nothing"))


def test_iterations_pass_over_all_images_across_epochs(detection_of: Callable[..., Run]) -> None:
    run = detection_of(iterations=14, epochs=2, batch_size=4)  # 28 samples in an epoch, two passes
    assert (run.steps, run.images) == (7, 28)
    seen = []
    for epoch in range(2):
        run.train_loader.set_epoch(epoch)
        seen += [index for batch in run.train_loader for index in batch.indices.tolist()]
    assert sorted(seen) == sorted(4 * list(range(14)))
    assert len({tuple(seen[start : start + 14]) for start in range(0, 56, 14)}) == 4


def test_validation_does_not_depend_on_the_size_of_batches(detection_of: Callable[..., Run]) -> None:
    values = []
    for size in (2, 6):
        run = detection_of(batch_size=size, detector="retinanet")
        validation = run.task.start_validation(run.network)
        run.network.validated.eval()
        for batch in run.val_loader:
            validation.add(batch)
        values.append(validation.values())
        assert set(validation._found) == set(range(6))
        assert run.network.validated.training is False
    assert values[0] == pytest.approx(values[1], abs=0.5)  # the padding, which convolutions see, differs
    assert np.isfinite(list(values[0].values())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_images": 99}, r"--train-images must be at most 14, the training images with objects; got 99"),
        ({"val_split": "test"}, r"there is no split 'test'\. There are train, val\."),
        ({"iterations": 9, "epochs": None}, r"--iterations must be a multiple of --epochs, 26 by default; got 9"),
        ({"trainable_layers": 5}, r"--trainable-layers must be at most 4, the stages of --model small; got 5"),
    ],
)
def test_what_cannot_start_is_named(detection_of: Callable[..., Run], options: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, DataError), match=message):
        detection_of(**options)


def test_changed_annotations_are_noticed(scenes: Path, quick: list[str], tmp_path: Path, capsys: Any) -> None:
    import shutil

    shutil.copytree(scenes, tmp_path / "data")
    words = ["detect", "--data", str(tmp_path / "data"), *quick, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert program(words) == 0
    path = tmp_path / "data" / "Annotations" / "train_0000.xml"
    path.write_text(path.read_text().replace("<xmin>", "<xmin>1", 1).replace("<xmin>1", "<xmin>", 1))
    assert program(["detect", "--resume", "--out", str(tmp_path / "run"), "--epochs", "2"]) == 0  # the same boxes
    name = next(name for name in ("<ymin>", "<xmin>") if name in path.read_text())
    start = path.read_text().index(name) + len(name)
    end = path.read_text().index("<", start)
    value = int(path.read_text()[start:end])
    path.write_text(f"{path.read_text()[:start]}{value + 1}{path.read_text()[end:]}")
    assert program(["detect", "--resume", "--out", str(tmp_path / "run"), "--epochs", "3"]) == 2
    assert "cannot resume: the state is of another loader. dataset: " in capsys.readouterr().err
