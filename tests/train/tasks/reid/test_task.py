"""Runs of re-identification: the step's losses, the validation, pictures, starts from weights, stops and resumes."""

import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from train.__main__ import main as program
from train.distributed import World
from train.engine.run import Run
from train.errors import UserError
from train.tasks.reid import objective
from train.tasks.reid.evaluation import Gallery, comparable, ranking, sums_of, values_of
from train.tasks.reid.losses import triplet_loss
from train.tasks.reid.task import Retrieval

OPTIONS: list[dict[str, Any]] = [
    {"center_weight": 0.02, "triplet_weight": 0.5},
    {"early_head": "auto"},
    {"early_head": "3", "triplet_weight": 0.0},
    {"method": "keep_randaugment", "saliency": "memory", "region_size": 6},
    {"method": "none", "model": "resnet18", "early_head": "auto"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_losses_of_a_step(options: dict[str, Any], reid_run: Any) -> None:
    run, twin = (reid_run(**options) for _ in range(2))
    batch = next(iter(run.train_loader))
    assert batch.images.shape == (8, 3, 32, 16)
    assert (batch.labels[::2] == batch.labels[1::2]).all()
    outcome = run.objective(batch)
    assert (*outcome.losses, "replaced") == run.meter.names

    trace = twin.objective._trace(batch)
    outputs = twin.network.trained(trace.inputs)
    early = options.get("early_head", "off") != "off"
    (features, logits), *heads = outputs if early else (outputs,)
    classified = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    expected = classified + 0.3 * sum(F.cross_entropy(head, batch.labels, label_smoothing=0.1) for head in heads)
    torch.testing.assert_close(outcome.losses["identity_loss"], classified)
    if "triplet_loss" in outcome.losses:
        triplet = triplet_loss(features, batch.labels, margin=0.3)
        torch.testing.assert_close(outcome.losses["triplet_loss"], triplet)
        expected = expected + options.get("triplet_weight", 1.0) * triplet
    if "center_weight" in options:
        centres = twin.objective.centres.values
        loss = (features - centres[batch.labels]).square().sum(1).mean()
        torch.testing.assert_close(outcome.losses["center_loss"], loss)
        expected = expected + 0.02 * loss
        moved = centres + twin.objective.centres.step(features, batch.labels)
        assert torch.equal(run.objective.centres.values, moved)
    torch.testing.assert_close(outcome.losses["loss"], expected)
    outcome.losses["loss"].backward()


def test_no_step_waits(reid_run: Any, no_waiting: Any) -> None:
    run = reid_run(center_weight=5e-4)
    batches = iter(run.train_loader)
    run.train_step(batches)
    batch = next(batches)
    with no_waiting():
        run.objective(batch).losses["loss"].backward()
    validation = run.task.start_validation(run.network)
    images = next(iter(run.val_loader))
    with no_waiting(), torch.no_grad():
        validation.add(images)


def test_an_epoch_is_the_samplers(reid_run: Any) -> None:
    run = reid_run(accumulate=2)
    assert (run.steps, run.images) == (run.task.sampler.batches, 8 * run.task.sampler.batches)
    batches = iter(run.train_loader)
    while run.step < run.steps:
        run.train_step(batches)
    assert next(batches, None) is None
    assert run.meter.samples == run.images


def test_centres_follow_all_processes(reid_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = reid_run(center_weight=0.1)
    centres, other = run.objective.centres, torch.randn(8, 128)
    monkeypatch.setattr(objective.dist, "all_reduce", lambda step: step.add_(other))
    run.objective.world = World(size=2, host=object())  # type: ignore[arg-type]
    features, labels, before = torch.randn(8, 128), torch.arange(8) // 2, centres.values.clone()
    own = centres.step(features, labels)
    run.objective._follow(centres, features, labels, torch.tensor(1.0))
    torch.testing.assert_close(centres.values, before + (own + other) / 2)
    before = centres.values.clone()
    run.objective.world = World()
    run.objective._follow(centres, features, labels, torch.tensor(torch.nan))
    assert torch.equal(centres.values, before), "a loss that is not finite moves none"


def _values(run: Run, **changes: Any) -> dict[str, float]:
    """The validation, computed at once from all features."""
    data, model = run.task.data, run.network.validated.eval()
    features = torch.cat([model.embed(batch.images) for batch in run.val_loader])
    places = map(torch.from_numpy, (data.identities, data.cameras, data.queries, data.gallery))
    images = Gallery(comparable(features.detach(), run.config.distance), *places)
    return values_of(sums_of(*ranking(images, images.queries)))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_validation(distance: str, reid_run: Any) -> None:
    run = reid_run(distance=distance)
    expected = _values(run)
    validation = run.task.start_validation(run.network)
    with torch.no_grad():
        for batch in run.val_loader:
            validation.add(batch)
    assert validation.values() == pytest.approx(expected | {"val_replaced": 0})
    assert set(expected) == {"val_map", "val_rank1", "val_rank5", "val_rank10"}


@dataclass(frozen=True)
class Shared(World):
    """Processes as threads, whose values are added at a barrier."""

    barrier: Any = None
    values: Any = None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.values[self.rank] = values.clone()
        self.barrier.wait(10)
        total = sum(self.values)
        self.barrier.wait(10)
        return values.copy_(total)


def test_processes_share_the_validation(reid_run: Any) -> None:
    run = reid_run()
    expected, barrier, values = _values(run), threading.Barrier(2), [None, None]
    found: list[Any] = [None, None]
    validations = []
    for rank in range(2):
        run.task.world = Shared(rank=rank, size=2, barrier=barrier, values=values)
        validations.append(Retrieval(run.task, run.network))
    with torch.no_grad():
        for number, batch in enumerate(run.val_loader):
            validations[number % 2].add(batch)
    worlds = [Shared(rank=rank, size=2, barrier=barrier, values=values) for rank in range(2)]
    tasks = [
        type("Task", (), {**vars(run.task), "world": world, "keep": lambda self, images: None})() for world in worlds
    ]
    for validation, task in zip(validations, tasks, strict=True):
        validation._task = task

    def measure(rank: int) -> None:
        found[rank] = validations[rank].values()

    threads = [threading.Thread(target=measure, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found[0] == found[1] == pytest.approx(expected | {"val_replaced": 0})


def test_a_replaced_image_does_not_count(reid_run: Any) -> None:
    """Nor does one that replaced it count twice."""
    run = reid_run(distance="euclidean")
    run.network.validated.eval()
    query, other = int(run.task.data.queries[0]), int(run.task.data.gallery[0])
    images = torch.cat([batch.images for batch in run.val_loader])
    indices = torch.cat([batch.indices for batch in run.val_loader])
    once, twice = (run.task.start_validation(run.network) for _ in range(2))
    (batch, *_) = run.val_loader
    with torch.no_grad():
        once.add(batch._replace(images=images, indices=indices))
        once.values()
        whole = run.task._last
        images, indices = images.clone(), indices.clone()
        images[query], indices[query] = images[other], other
        twice.add(batch._replace(images=images, indices=indices))
        twice.values()
    assert run.task._last.queries.tolist() == whole.queries.tolist()[1:]
    assert torch.equal(run.task._last.gallery, whole.gallery)
    torch.testing.assert_close(run.task._last.features[1:], whole.features[1:])


@pytest.mark.pictures
def test_the_pictures(reid_run: Any, tmp_path: Path) -> None:
    run = reid_run(method="none", image_size=(24, 12))
    run.task.draw(run.network, run.objective, tmp_path / "before.png")
    assert not (tmp_path / "retrievals.png").exists(), "nothing has been validated"
    validation = run.task.start_validation(run.network)
    with torch.no_grad():
        for batch in run.val_loader:
            validation.add(batch)
    validation.values()
    run.task.draw(run.network, run.objective, tmp_path / "augmentations.png")
    for name in ("augmentations.png", "retrievals.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 100


def test_a_run_of_the_command(figures: Path, tmp_path: Path, stop_in_step: Any, same: Any, log_of: Any) -> None:
    """Stopped in its second epoch and resumed, it ends as a run that was not; its log has what it should have."""
    options = ["reid", "--data", str(figures), "--batch-identities", "4", "--batch-images", "2", "--epochs", "2"]
    options += ["--image-size", "32", "16", "--lr-warmup-epochs", "1", "--center-weight", "5e-4", "--device", "cpu"]
    assert program([*options, "--out", str(tmp_path / "whole")]) == 0
    with stop_in_step(2, epoch=1):
        assert program([*options, "--out", str(tmp_path / "parts")]) == 130
    assert program(["reid", "--resume", "--out", str(tmp_path / "parts")]) == 0
    a, b = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for name in ("model", "optimizer", "marks", "objective"):
        assert same(a[name], b[name]), name
    assert a["objective"]["centres"].shape == (8, 128)
    assert log_of(tmp_path / "whole", timed=False) == log_of(tmp_path / "parts", timed=False)
    last = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[-1])
    names = {
        "val_map",
        "val_rank1",
        "val_rank5",
        "val_rank10",
        "train_triplet_loss",
        "train_center_loss",
        "saliency_cut",
    }
    assert names <= last.keys()
    assert all((tmp_path / "whole" / name).is_file() for name in ("augmentations.png", "retrievals.png"))
    assert torch.load(tmp_path / "whole" / "best.pt", weights_only=True)["val_map"] > 0


def test_it_starts_from_weights(reid_run: Any, figures: Path, shapes: Path, tmp_path: Path, capsys: Any) -> None:
    """Of a classifier, whose head is left out, and of a run of its own kind."""
    quick = ["--device", "cpu", "--epochs", "1"]
    plain = ["--data", str(shapes), "--image-size", "16", "--batch-size", "16", "--region-size", "6", "--ema", "0.5"]
    assert program([*plain, *quick, "--out", str(tmp_path / "plain")]) == 0
    options = ["reid", "--data", str(figures), "--batch-identities", "4", "--batch-images", "2", *quick]
    options += ["--image-size", "16", "8", "--lr", "1e-12", "--ema", "0.5"]
    for start, name in (("plain", "first"), ("first", "second")):
        begun = [*options, "--weights", str(tmp_path / start), "--out", str(tmp_path / name)]
        assert program(begun) == 0
    states = [
        torch.load(tmp_path / name / "best.pt", weights_only=True)["model"] for name in ("plain", "first", "second")
    ]
    torch.testing.assert_close(states[1]["backbone.0.0.weight"], states[0]["0.0.weight"])
    torch.testing.assert_close(states[2]["classifier.weight"], states[1]["classifier.weight"], atol=1e-6, rtol=0)
    capsys.readouterr()
    assert program(["show", str(tmp_path / "first"), str(shapes)]) == 2
    assert "best.pt is of a run of the command reid, which this command does not take" in capsys.readouterr().err


def test_other_identities_are_noticed(figures: Path, reid_run: Any, tmp_path: Path) -> None:
    shutil.copytree(figures, tmp_path / "data")
    for file in (tmp_path / "data" / "query").glob("*.jpg"):
        shutil.copy(file, tmp_path / "data" / "bounding_box_train")
    run = reid_run(data=str(tmp_path / "data"))
    assert any("4 identities of the queries are trained on (0009, 0010, 0011)" in sentence for sentence in run.warnings)
    with pytest.raises(
        UserError, match=r"cannot resume: the run was started on 8 classes, .* has 12; only one of them"
    ):
        run.load_state_dict(reid_run().state_dict())
