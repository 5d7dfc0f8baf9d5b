"""What the contact sheet shows, for each kind of method, against the pixels; which images; the program."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_salaug import METHODS, saliency_map
from pipelines import image_loader
from train.__main__ import main as program
from train.analysis.trained import UNKNOWN, Trained, configure, load_best
from train.cli.commands import build_parser
from train.cli.parser import names_of_methods
from train.config import Config
from train.data.shapes import SHAPES
from train.engine import checkpoint
from train.errors import UserError
from train.models.registry import build_model
from train.programs.show import Sheet, find_images, make_sheet
from train.tasks.classification.pictures import Column, draw_sheet, mixed_labels, of_different_classes
from train.tasks.classification.stage import make_stage

SIDE = 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the best.pt of a run with KeepAutoAugment, by smoothed maps, but for training."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = Config(
        data=str(shapes), method="keep_autoaugment", saliency="smoothgrad", image_size=SIDE, region_size=8, tau=0.7,
        device="cpu", workers=1,
    ).resolved(side=64, embedded=False, cifar=False)  # fmt: skip
    model = build_model("small", len(SHAPES), SIDE)
    state = {"config": config.to_dict(), "classes": sorted(SHAPES), "mean": MEAN, "std": STD, "resize_to": SIDE}
    checkpoint.save(state | {"model": model.state_dict()}, folder / "best.pt")
    return folder


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load_best(run)


@pytest.fixture
def sheet(trained: Trained, shapes: Path) -> Callable[..., Sheet]:
    def make(method: str, paths: list[Path] | None = None, *, count: int = 4, seed: int = 3, **given: Any) -> Sheet:
        dataset = find_images(paths or [shapes], trained.classes)
        return make_sheet(trained, configure(trained, {"method": method} | given, dataset), dataset, count=count,
                          seed=seed)  # fmt: skip

    return make


def columns_of(sheet: Sheet) -> dict[str, Column]:
    return {column.title.split(",")[0]: column for column in sheet.columns}


def inside(boxes: torch.Tensor) -> torch.Tensor:
    """(B, 1, SIDE, SIDE), bool, by loops."""
    mask = torch.zeros(len(boxes), 1, SIDE, SIDE, dtype=torch.bool)
    for image, (top, left, bottom, right) in enumerate(boxes.tolist()):
        mask[image, :, top:bottom, left:right] = True
    assert mask.any()
    assert not mask.all()
    return mask


@pytest.mark.parametrize("method", METHODS)
def test_it_shows_what_the_stage_makes(method: str, sheet: Any, trained: Trained, shapes: Path) -> None:
    shown = sheet(method)
    clean, inputs = (shown.columns[place].pictures for place in (0, -1))
    dataset = find_images([shapes], trained.classes)
    config = configure(trained, {"method": method}, dataset)
    indices = of_different_classes(dataset.labels, len(clean))
    loader = image_loader(
        shapes, batch_size=16, image_size=SIDE, train=False, policy=config.policy, device="cpu", mean=MEAN, std=STD
    )
    (batch,) = loader
    assert torch.equal(clean, batch.images[indices])
    assert shown.names == [trained.classes[label] for label in batch.labels[indices][:4]]

    stage = make_stage(config, len(SHAPES), 3, warmup_epochs=0)
    augmented = columns_of(shown)[config.policy].pictures if method.startswith("keep_") and config.policy else inputs
    trace = stage.trace(trained.model, clean, batch.labels[indices], augmented)
    assert torch.equal(inputs, trace.inputs)
    assert (trace.saliency is None) == ("saliency" not in columns_of(shown))
    drawn = getattr(trace.drawn, "second", trace.drawn)  # of two methods one after the other
    assert hasattr(drawn, "partners") == ("partner" in columns_of(shown))
    assert shown.notes == mixed_labels(trace.targets, trained.classes)[:4]
    if method != "none":
        assert not torch.equal(clean, inputs)


def test_a_cut(sheet: Any) -> None:
    clean, saliency, inputs = columns_of(sheet("keep_cutout")).values()
    mask = inside(inputs.boxes)
    assert torch.equal(inputs.pictures, clean.pictures * ~mask)
    assert torch.equal(saliency.boxes, inputs.boxes)
    assert saliency.pictures.shape == (4, SIDE // 2, SIDE // 2)
    assert list(columns_of(sheet("cutout"))) == ["clean", "network's input"]


def test_a_square_kept_under_a_policy(sheet: Any) -> None:
    clean, _, augmented, inputs = columns_of(sheet("keep_trivialaugment")).values()
    assert augmented.title == "trivialaugment"
    assert torch.equal(inputs.pictures, torch.where(inside(inputs.boxes), clean.pictures, augmented.pictures))
    assert list(columns_of(sheet("trivialaugment"))) == ["clean", "network's input"]


def test_a_partner(sheet: Any) -> None:
    shown = sheet("keep_cutmix")
    clean, _, partner, inputs = columns_of(shown).values()
    mask = inside(inputs.boxes)
    assert torch.equal(inputs.pictures, torch.where(mask, partner.pictures, clean.pictures))
    assert torch.equal(partner.sources, inputs.boxes)
    for name, note, share in zip(shown.names, shown.notes, mask.float().mean((1, 2, 3)).tolist(), strict=False):
        weights = dict(part.rsplit(" ", 1) for part in note.split(", "))
        assert float(weights[name]) == pytest.approx(1 - share, abs=0.006) or weights[name] == "1.00"


def test_a_map_of_the_partner(sheet: Any) -> None:
    _, partner, fine_grained, _ = columns_of(sheet("saliencymix")).values()
    assert torch.equal(fine_grained.pictures, saliency_map(None, partner.pictures, method="fine_grained", scale=1.0))
    peaks = fine_grained.pictures.flatten(1).argmax(1)
    for peak, (top, left, bottom, right) in zip(peaks.tolist(), fine_grained.sources.tolist(), strict=True):
        y, x = divmod(peak, SIDE)
        assert bottom == top or right == left or (top <= y < bottom and left <= x < right)


def test_cells_of_the_partner(sheet: Any) -> None:
    clean, _, partner, attention, inputs = columns_of(sheet("attentive_cutmix")).values()
    assert torch.equal(inputs.pictures, torch.where(partner.masks, partner.pictures, clean.pictures))
    # A cell's mean attention is the greater: that of the map where it is taken, than where it is not.
    taken = attention.pictures[:, None][attention.masks].mean()
    assert taken > attention.pictures[:, None][~attention.masks].mean()


def test_a_box_of_the_partner_in_another_box(sheet: Any) -> None:
    clean, saliency, partner, its_map, inputs = columns_of(sheet("snapmix")).values()
    outside = ~inside(inputs.boxes)
    assert torch.equal(inputs.pictures * outside, clean.pictures * outside)
    assert torch.equal(saliency.boxes, inputs.boxes)
    assert torch.equal(partner.sources, its_map.sources)
    assert not torch.equal(partner.sources, inputs.boxes)
    assert inputs.sources is None, "they lie in the partner"


def test_a_whole_partner_made_small(sheet: Any) -> None:
    clean, partner, inputs = columns_of(sheet("resizemix")).values()
    mask = inside(inputs.boxes)
    assert torch.equal(inputs.pictures * ~mask, clean.pictures * ~mask)
    assert partner.sources is None
    for image, (top, left, bottom, right) in enumerate(inputs.boxes.tolist()):
        pasted = inputs.pictures[image, :, top:bottom, left:right]
        whole = torch.nn.functional.interpolate(partner.pictures[image : image + 1], pasted.shape[1:], mode="bilinear")
        assert pasted == pytest.approx(whole[0], abs=1e-5)


def test_blocks_of_both_and_their_maps(sheet: Any) -> None:
    clean, saliency, partner, its_map, inputs = columns_of(sheet("puzzlemix", count=16)).values()
    for image, own in zip(partner.pictures, its_map.pictures, strict=True):
        (place,) = (k for k, other in enumerate(clean.pictures) if torch.equal(image, other))
        assert torch.equal(saliency.pictures[place], own)
    assert not torch.equal(inputs.pictures, clean.pictures)


def test_a_policy_from_a_file(sheet: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("- [[invert, 1.0]]")
    columns = sheet("keep_randaugment", policy=str(tmp_path / "mine.yaml")).columns
    assert columns[-2].title == "mine.yaml"
    clean, inverted = (
        (column.pictures * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
        for column in (columns[0], columns[-2])
    )
    assert inverted == pytest.approx(255 - clean, abs=1e-3)


def test_a_patch_copied_within_the_image(sheet: Any) -> None:
    clean, saliency, inputs = columns_of(sheet("salfmix")).values()
    expected = clean.pictures.clone()
    for image, (source, box) in enumerate(zip(inputs.sources.tolist(), inputs.boxes.tolist(), strict=True)):
        top, left, bottom, right = source
        patch = clean.pictures[image, :, top:bottom, left:right]
        top, left, bottom, right = box
        expected[image, :, top:bottom, left:right] = patch
    assert torch.equal(inputs.pictures, expected)
    assert torch.equal(saliency.sources, inputs.sources)


def test_self_mixed_then_mixed(sheet: Any) -> None:
    columns = columns_of(sheet("hybridmix_v3", count=16))
    assert list(columns) == ["clean", "saliency", "self-mixed", "partner", "network's input"]
    mixed, partner, inputs = (columns[name] for name in ("self-mixed", "partner", "network's input"))
    mask = inside(inputs.boxes)
    assert torch.equal(inputs.pictures, torch.where(mask, partner.pictures, mixed.pictures))
    assert torch.equal(mixed.pictures, columns_of(sheet("salfmix", count=16))["network's input"].pictures)
    assert torch.equal(columns["saliency"].boxes, mixed.boxes)


def test_the_runs_values_are_the_defaults_but_for_another_method(trained: Trained, shapes: Path) -> None:
    dataset = find_images([shapes], trained.classes)
    own = configure(trained, {}, dataset)
    assert own == trained.config
    other = configure(trained, {"method": "salfmix"}, dataset)
    assert (other.policy, other.saliency, other.saliency_target, other.saliency_scale, other.tau) == (
        None,
        "gradient",
        "loss",
        0.5,
        0.7,
    )
    other = configure(trained, {"method": "snapmix", "saliency_target": "max"}, dataset)
    assert (other.saliency, other.saliency_target, other.saliency_scale) == ("grad_cam", "max", 1.0)
    assert configure(trained, {"method": "randaugment"}, dataset).policy == "randaugment"
    given = {"method": "keep_randaugment", "policy": "trivialaugment", "saliency": "fine_grained"}
    assert given.items() <= configure(trained, given, dataset).to_dict().items()


def test_images_whose_class_is_not_known(sheet: Any, trained: Trained, shapes: Path, tmp_path: Path) -> None:
    """They count as what the model says, and the map is of its largest logit; of any size and form."""
    files = sorted((shapes / "val" / "heart").iterdir())
    for size in ((40, 90), (70, 33)):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / f"{size[0]}.jpg")
    Image.open(files[0]).save(tmp_path / "z.png")
    flat = find_images([tmp_path], trained.classes)
    assert flat.labels.tolist() == [UNKNOWN] * 3
    assert configure(trained, {}, flat).saliency_target == "max"
    assert configure(trained, {"saliency_target": "loss"}, flat).saliency_target == "loss"

    shown = sheet("keep_cutout", [tmp_path, files[1]])
    columns = columns_of(shown)
    predicted = trained.model(columns["clean"].pictures).argmax(1).tolist()
    assert shown.names == [*(f"{trained.classes[k]}, predicted" for k in predicted[:3]), "heart"]
    by_max = saliency_map(trained.model, columns["clean"].pictures, torch.zeros(4, dtype=torch.long), target="max")
    assert torch.equal(columns["saliency"].pictures, by_max)
    (z,) = image_loader(
        find_images([tmp_path / "z.png"], ["z"]), batch_size=1, image_size=SIDE, train=False, device="cpu",
        mean=MEAN, std=STD,
    )  # fmt: skip
    assert torch.equal(columns["clean"].pictures[2], z.images[0])


def test_folders_of_every_form(trained: Trained, shapes: Path, tmp_path: Path) -> None:
    whole, val, flat = (find_images([p], trained.classes) for p in (shapes, shapes / "val", shapes / "val" / "star"))
    assert whole.reader.files == val.reader.files
    assert whole.labels.tolist() == sorted(list(range(len(SHAPES))) * 2)
    assert flat.labels.tolist() == [trained.classes.index("star")] * 2
    both = find_images([shapes / "val" / "star", shapes], trained.classes)
    assert (len(both), both.labels[0]) == (18, trained.classes.index("star"))
    # Numbered as the run's classes, not as the folders that are there.
    (tmp_path / "star").mkdir()
    (tmp_path / "zebra").mkdir()
    for name in ("star", "zebra"):
        Image.new("RGB", (9, 9)).save(tmp_path / name / "1.png")
    assert find_images([tmp_path], trained.classes).labels.tolist() == [trained.classes.index("star"), UNKNOWN]


def test_no_image_stands_twice_and_classes_come_first(sheet: Any, shapes: Path) -> None:
    labels = np.array([2, 2, 0, 2, 1, 1])
    assert of_different_classes(labels, 4).tolist() == [0, 2, 4, 1]
    assert of_different_classes(labels, 9).tolist() == [0, 2, 4, 1, 5, 3]
    assert len(set(sheet("none", count=8).names)) == 8
    files = [shapes / "val" / "star" / "0001.png", *sorted((shapes / "val" / "disc").iterdir())]
    files[0] = sorted((shapes / "val" / "star").iterdir())[1]
    assert sheet("none", files, count=3).names == ["star", "disc", "disc"], "as the user has ordered them"


def test_the_seed_draws_regions_partners_and_policy(sheet: Any) -> None:
    for method in ("cutout", "mixup", "randaugment"):
        one, again, other = (sheet(method, seed=seed).columns[-1].pictures for seed in (5, 5, 6))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_mixed_labels_from_most_to_least() -> None:
    targets = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.004], [0.3, 0.3, 0.4]])
    assert mixed_labels(targets, ["a", "b", "c"]) == ["b 0.75, a 0.25", "b 1.00", "c 0.40, a 0.30, b 0.30"]
    assert mixed_labels(torch.tensor([1, 0]), ["a", "b"]) == ["", ""]


def test_the_picture_has_the_pixels(tmp_path: Path) -> None:
    """Two plain columns, one with a box: their colours cover their share of the sheet, and the box is outlined."""
    colours = torch.tensor([[200, 40, 10], [20, 60, 250]]) / 255
    first, second = (
        ((c - torch.tensor(MEAN)) / torch.tensor(STD)).view(1, 3, 1, 1).expand(2, 3, 8, 8) for c in colours
    )
    boxes = torch.tensor([[2, 2, 6, 6], [0, 0, 0, 0]])
    draw_sheet(
        [Column("a", first), Column("b", second, boxes)], ["x", "y"], ["", ""], tmp_path / "a.png", mean=MEAN, std=STD
    )
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    shares = [(np.abs(pixels - colour).max(2) <= 1).mean() for colour in ([200, 40, 10], [20, 60, 250], [0, 229, 255])]
    assert shares[0] > 0.3
    assert 0.3 < shares[1] < shares[0] + 0.01
    assert 0 < shares[2] < 0.02
    cyan = np.nonzero((np.abs(pixels - [0, 229, 255]).max(2) <= 1).any(0))[0]
    assert cyan.max() - cyan.min() < pixels.shape[1] / 4, "the empty box of the second image is not drawn"


def test_the_program(run: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    heart = sorted((shapes / "val" / "heart").iterdir())
    assert program(["show", str(run), str(heart[0])]) == 0
    assert program(["show", str(run / "best.pt"), "--method", "cutmix", "--out", "deep/er/b.png"]) == 0
    assert program(["show", str(run), "--count", "1", "--all", "--region-size", "6", "--out", "every"]) == 0
    assert "1 of 1 images: keep_autoaugment.png\n6 of 16 images: deep/er/b.png\n" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "every").iterdir()}
    assert names == {f"{name}.png" for name in METHODS}
    for name in ("train", "val"):
        Path(f"{name}.txt").write_text(f"{heart[0]} 3\n{heart[1]} 3\n")
    Path("classes.txt").write_text("".join(f"{folder.name}\n" for folder in sorted((shapes / "val").iterdir())))
    assert program(["show", str(run), "train.txt", "--out", "list.png"]) == 0
    assert capsys.readouterr().out == "2 of 2 images: list.png\n"
    for path in ("keep_autoaugment.png", "deep/er/b.png", "every/hybridmix_v2.png", "list.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["RUN", "none.jpg"], "none.jpg: no such file or folder"),
        (["RUN", "empty"], "'empty' holds no class folders"),
        (["RUN", "broken.jpg"], "cannot decode image 'broken.jpg': it is no image of a known format"),
        (["RUN", "one.png", "--method", "mixup"], "--method mixup mixes two images; got one, one.png"),
        (["RUN", "one.png", "--method", "magic"], "--method must be one of none, cutout"),
        (["RUN", "one.png", "--policy", "magic"], "--policy must be one of autoaugment"),
        (
            ["RUN", "one.png", "--method", "cutout", "--policy", "randaugment"],
            "--policy is for the methods autoaugment",
        ),
        (["RUN", "one.png", "--tau", "2"], r"--tau must be in [0, 1]; got 2.0"),
        (
            ["RUN", "one.png", "--region-size", "33"],
            "--region-size must be at most --image-size, 32; got 33",
        ),
        (["RUN", "one.png", "--out", "a.jpg"], "--out must end in .png; got a.jpg"),
        (["RUN", "one.png", "--all", "--method", "cutout"], "--all draws each method with its own policy"),
        (["empty", "one.png"], "empty/best.pt: no such checkpoint"),
        (["other.pt", "one.png"], "other.pt: not a checkpoint of a run"),
        (["one.png", "one.png"], "one.png: not a checkpoint of this program, or damaged"),
    ],
)
def test_errors(
    options: list[str], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.jpg").write_text("nothing")
    Image.new("RGB", (40, 40)).save("one.png")
    checkpoint.save({"model": {}}, Path("other.pt"))
    assert program(["show", *(str(run) if word == "RUN" else word for word in options)]) == 2
    assert message in capsys.readouterr().err


def test_pickles_alone_only(trained: Trained, shapes: Path, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": ["star", "cat"]}))
    content = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    found = find_images([tmp_path], trained.classes)
    assert found.labels.tolist() == [trained.classes.index("star"), UNKNOWN]
    given = configure(trained, {"method": "keep_autoaugment", "policy": None}, found)
    assert given.policy == "autoaugment_cifar10"
    sheet = make_sheet(trained, configure(trained, {"method": "cutmix"}, found), found, count=2, seed=0)
    assert sheet.columns[0].pictures.shape == (2, 3, SIDE, SIDE)
    with pytest.raises(UserError, match="pickles, shards and LMDB folders must be the only path; got"):
        find_images([tmp_path, shapes], trained.classes)


def test_help_tells_every_option_with_its_default_and_every_method() -> None:
    (commands,) = (a for a in build_parser(["show"])._actions if isinstance(a, argparse._SubParsersAction))
    parser = commands.choices["show"]
    assert " ".join(names_of_methods().split()) in " ".join(parser.format_help().split())
    for action in parser._actions:
        assert action.dest in ("help", "run") or "(default: " in (action.help or "")
