"""Semi-supervised training: the losses against float64 loops, the step, the pass over the images, resuming."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from train.__main__ import main as program
from train.engine.run import Run
from train.programs.train import main
from train.tasks.semi.config import SemiConfig
from train.tasks.semi.objective import (
    SemiObjective,
    annealed_cross_entropy,
    annealing_threshold,
    consistency_loss,
)

SEMI: dict[str, Any] = {"labels": 16, "unlabelled_ratio": 3, "batch_size": 4, "label_smoothing": 0.0, "confidence": 0.1}


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def logits(rows: int, classes: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("temperature", "confidence"), [(0.4, 0.8), (1.0, 0.0), (2.0, 0.95)])
def test_the_consistency_loss(hard: bool, temperature: float, confidence: float) -> None:
    clean, augmented = logits(40, 5, 0), logits(40, 5, 1)
    total, counted = 0.0, []
    for p_row, q_row in zip(clean.double().tolist(), augmented.double().tolist(), strict=True):
        q, plain = softmax(q_row), softmax(p_row)
        counted.append(max(plain) > confidence)
        if not counted[-1]:
            continue
        if hard:
            total -= math.log(q[plain.index(max(plain))])
        else:
            p = softmax([value / temperature for value in p_row])
            total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    loss, confident = consistency_loss(clean, augmented, temperature=temperature, confidence=confidence, hard=hard)
    assert confident.tolist() == counted
    assert sum(counted) > 0
    assert (sum(counted) < 40) == (confidence > 0)
    assert loss.item() == pytest.approx(total / 40, rel=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_no_gradient_flows_through_the_clean_images(hard: bool) -> None:
    clean, augmented = logits(8, 5, 0).requires_grad_(), logits(8, 5, 1).requires_grad_()
    loss, _ = consistency_loss(clean, augmented, temperature=0.5, confidence=0.0, hard=hard)
    loss.backward()
    assert clean.grad is None
    assert augmented.grad is not None
    assert augmented.grad.abs().sum() > 0


def test_extreme_logits_give_finite_losses() -> None:
    clean, augmented = torch.tensor([[500.0, -500.0]]), torch.tensor([[-40.0, 40.0]], requires_grad=True)
    loss, _ = consistency_loss(clean, augmented, temperature=0.01, confidence=0.8, hard=False)
    loss.backward()
    assert loss.item() == pytest.approx(80)
    assert augmented.grad is not None
    assert augmented.grad.isfinite().all()


@pytest.mark.parametrize("threshold", [None, 0.2, 0.6, 1.0])
def test_the_annealed_cross_entropy(threshold: float | None) -> None:
    given = logits(30, 5, 2).requires_grad_()
    labels = torch.randint(5, (30,), generator=torch.Generator().manual_seed(3))
    losses = []
    for row, label in zip(given.double().tolist(), labels.tolist(), strict=True):
        probability = softmax(row)[label]
        if threshold is None or probability <= threshold:
            losses.append(-math.log(probability))
    loss = annealed_cross_entropy(given, labels, threshold=threshold)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    loss.backward()
    assert given.grad is not None
    assert given.grad.abs().sum(1).count_nonzero() == len(losses)


def test_it_is_zero_where_all_labels_are_learned() -> None:
    given = torch.eye(3).mul(50).requires_grad_()
    loss = annealed_cross_entropy(given, torch.arange(3), threshold=0.5)
    loss.backward()
    assert loss.item() == 0
    assert given.grad is not None
    assert not given.grad.any()


def test_the_annealing_is_the_authors() -> None:
    """UDA, figure 2: η = α (1 − 1/K) + 1/K; α is t, 1 − exp(−5 t) or exp(5 (t − 1))."""
    for t in (0.0, 0.3, 1.0):
        alphas = {"linear": t, "log": 1 - 2.718281828459045 ** (-5 * t), "exp": 2.718281828459045 ** (5 * t - 5)}
        for schedule, alpha in alphas.items():
            assert annealing_threshold(schedule, t, 10) == pytest.approx(0.1 + 0.9 * alpha)
    assert annealing_threshold("off", 0.5, 10) is None


@pytest.mark.parametrize(
    "options", [{}, {"pseudo_labels": "hard"}, {"training_signal_annealing": "linear", "early_head": "auto"}]
)
def test_the_losses_of_a_step(options: dict[str, Any], run_of: Any) -> None:
    """They are those of one pass of the network over labelled, clean and augmented images."""
    run, twin = (run_of(**SEMI | {"unlabelled_weight": 2.0} | options) for _ in range(2))
    batch = next(iter(run.train_loader))
    assert len(batch.images) == 12
    losses, measures = run.objective(batch)
    assert (*losses, "replaced") == run.meter.names
    assert tuple(measures) == run.measures.names

    labelled = next(iter(twin.objective.labelled))
    trace = twin.objective.stage.trace(twin.model, batch.images, batch.labels, batch.augmented)
    assert twin.config.saliency_target == "max"
    assert not torch.equal(trace.inputs, batch.augmented)
    outputs = twin.network.trained(torch.cat([labelled.images, batch.images, trace.inputs]))
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    threshold = 1 / 8 if "early_head" in options else None
    supervised = annealed_cross_entropy(heads[0][:4], labelled.labels, threshold=threshold)
    hard = options.get("pseudo_labels") == "hard"
    clean, augmented = heads[0][4:16], heads[0][16:]
    consistency, confident = consistency_loss(clean, augmented, temperature=0.4, confidence=0.1, hard=hard)
    early = sum(0.3 * torch.nn.functional.cross_entropy(head[:4], labelled.labels) for head in heads[1:])
    torch.testing.assert_close(losses["supervised_loss"], supervised)
    torch.testing.assert_close(losses["consistency_loss"], consistency)
    torch.testing.assert_close(losses["loss"], supervised + 2 * consistency + early)
    assert torch.equal(measures["confident_share"], confident.float())
    assert torch.equal(measures["pseudo_label_accuracy"], (confident & (clean.argmax(1) == batch.labels)).float())


def test_no_step_waits(run_of: Any, no_waiting: Any) -> None:
    run = run_of(**SEMI, training_signal_annealing="log")
    batches = iter(run.train_loader)
    run.train_step(batches)  # makes generators and buffers
    batch = next(batches)
    with no_waiting():
        run.objective(batch).losses["loss"].backward()


def test_without_a_weight_the_labelled_images_alone_count(run_of: Any) -> None:
    run = run_of(**SEMI, unlabelled_weight=0.0)
    batch = next(iter(run.train_loader))
    losses, measures = run.objective(batch)
    labelled = next(iter(run_of(**SEMI).objective.labelled))
    expected = torch.nn.functional.cross_entropy(run.network.trained(labelled.images), labelled.labels)
    torch.testing.assert_close(losses["loss"], expected)
    assert not measures


def test_an_epoch_is_a_pass_over_the_unlabelled_images(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts too; each has its labelled images, from orders that go on from epoch to epoch."""
    run: Run = run_of(**SEMI, accumulate=2, ema=0.5)
    seen: list[tuple[list[int], list[int]]] = []
    objective = run.objective
    assert isinstance(objective, SemiObjective)
    real = objective._supervised

    def noted(outputs: Any, labels: torch.Tensor, threshold: float | None) -> Any:
        seen[-1] = (seen[-1][0], labels.tolist())
        return real(outputs, labels, threshold)

    monkeypatch.setattr(objective, "_supervised", noted)
    call = SemiObjective.__call__

    def called(self: SemiObjective, batch: Any) -> Any:
        seen.append((batch.indices.tolist(), []))
        return call(self, batch)

    monkeypatch.setattr(SemiObjective, "__call__", called)
    for epoch in range(2):
        run.begin_epoch()
        batches = iter(run.train_loader)
        while run.step < run.steps:
            run.train_step(batches)
        run.end_epoch()
        run.train_loader.set_epoch(epoch + 1)
    assert run.steps == 4
    assert [len(unlabelled) for unlabelled, _ in seen] == [6] * 16
    for epoch in (seen[:8], seen[8:]):
        assert sorted(index for unlabelled, _ in epoch for index in unlabelled) == list(range(48))
        labels = [label for _, part in epoch for label in part]
        assert sorted(labels) == sorted(2 * list(range(8))), "a pass over the 16 labelled images"


@pytest.mark.pictures
def test_a_run_of_the_command(shapes: Path, tmp_path: Path, stop_in_step: Any, same: Any, log_of: Any) -> None:
    """Stopped in its second epoch and resumed, it ends as a run that was not; its log has what it should have."""
    options = ["semi", "--data", str(shapes), "--labels", "16", "--unlabelled-ratio", "3", "--batch-size", "4"]
    options += ["--image-size", "16", "--region-size", "6", "--epochs", "2", "--confidence", "0.1", "--device", "cpu"]
    assert program([*options, "--out", str(tmp_path / "whole"), "--training-signal-annealing", "log"]) == 0
    parts = [*options, "--out", str(tmp_path / "parts"), "--training-signal-annealing", "log"]
    with stop_in_step(2, epoch=1):
        assert program(parts) == 130
    assert program(["semi", "--resume", "--out", str(tmp_path / "parts")]) == 0
    a, b = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for name in ("model", "averaged", "optimizer", "marks", "objective"):
        assert same(a[name], b[name]), name
    assert log_of(tmp_path / "whole", timed=False) == log_of(tmp_path / "parts", timed=False)
    last = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[-1])
    names = {"val_top1", "train_supervised_loss", "train_consistency_loss", "confident_share", "pseudo_label_accuracy"}
    assert names <= last.keys()
    assert 0 < last["pseudo_label_accuracy"] < 1
    assert a["config"]["ema"] == 0.999
    assert (tmp_path / "whole" / "augmentations.png").stat().st_size > 10_000


@pytest.mark.pictures
def test_unlabelled_images_alone(shapes: Path, tmp_path: Path, run_of: Any) -> None:
    """Those in a folder without classes have no known labels: none are measured, and none are named."""
    (tmp_path / "images").mkdir()
    for number, file in enumerate(sorted((shapes / "train").rglob("*.jpg"))[::3]):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(file.read_bytes())
    run = run_of(**SEMI | {"labels": None, "unlabelled": str(tmp_path / "images")})
    assert (len(run.task.labelled), len(run.train_loader.dataset), run.task.labels_known) == (48, 16, False)
    run.train_step(iter(run.train_loader))
    assert run.measures.names == ("confident_share", "saliency_kept", "region_area")
    run.task.draw(run.network, run.objective, tmp_path / "figure.png")


def test_other_images_are_noticed(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = {"data": str(shapes), "image_size": 16, "region_size": 6, "device": "cpu", "epochs": 1, "method": "cutout"}
    given |= SEMI | {"out": str(tmp_path / "run")}
    assert main(dict(given), resuming=False, of=SemiConfig) == 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["marks"].keys() == {"training", "validation", "labelled"}
    assert program(["semi", "--resume", "--out", str(tmp_path / "run"), "--labels", "24"]) == 2
    assert "--labels is 16 in the checkpoint, 24 on the command line" in capsys.readouterr().err
