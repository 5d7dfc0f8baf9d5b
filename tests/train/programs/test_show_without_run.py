"""show without a run: an untrained model, torchvision's weights from the cache, single images, file names."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from dali_salaug import saliency_map
from train.__main__ import main as program
from train.analysis.trained import configure
from train.analysis.unrun import load_unrun, torchvision_weights
from train.errors import UserError
from train.models.registry import build_model
from train.programs.show import find_images, make_sheet


def test_an_untrained_model(shapes: Path) -> None:
    """Its maps are those of the model that the seed makes, on the images as ImageNet's are normalised."""
    dataset = find_images([shapes])
    assert dataset.classes == sorted(path.name for path in (shapes / "val").iterdir())
    trained = load_unrun("small", dataset, weights=None, image_size=32, seed=7)
    sheet = make_sheet(trained, configure(trained, {"method": "keep_cutout"}, dataset), dataset, count=3, seed=0)
    torch.manual_seed(7)
    model = build_model("small", 8, 32).to(trained.device).eval()
    clean, saliency = (column.pictures for column in sheet.columns[:2])
    labels = torch.from_numpy(dataset.labels)[:: len(dataset) // 8][:3].to(clean.device)
    assert sheet.names == [dataset.classes[label] for label in labels.tolist()]
    torch.testing.assert_close(saliency[:3], saliency_map(model, clean[:3], labels))
    with Image.open(shapes / "val" / sheet.names[0] / sheet.files[0]) as image:
        expected = torchvision.transforms.functional.to_tensor(image.convert("RGB").resize((32, 32)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert (clean[0].cpu() * std + mean - expected).abs().mean() < 0.03


def test_the_program_and_its_ways_to_name_images(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    one = str(shapes / "val" / "star" / "0001.jpg")
    for words, count in (
        (["--model", "small", "--data", str(shapes / "val"), "--count", "2"], "2 of 16"),
        (["--model", "small", "--data", one], "1 of 1"),
        ([one, "--model", "small", "--method", "cutout"], "1 of 1"),
        ([one, str(shapes / "val" / "disc"), "--model", "resnet18", "--image-size", "40"], "3 of 3"),
    ):
        assert program(["show", *words, "--out", "sheet.png"]) == 0
        assert capsys.readouterr().out == f"{count} images: sheet.png\n"
        with Image.open("sheet.png") as picture:
            assert min(picture.size) > 200


def test_file_names_are_under_the_pictures(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    texts: list[str] = []
    real = Axes.set_xlabel
    monkeypatch.setattr(Axes, "set_xlabel", lambda self, text, **how: (texts.append(text), real(self, text, **how))[0])
    folder = tmp_path / "images"
    folder.mkdir()
    names = ["$x_1$.png", f"{'a' * 30}{'z' * 30}.png", "b.png"]
    for name in names:
        Image.new("RGB", (40, 40)).save(folder / name)
    options = ["--model", "small", "--data", str(folder), "--method", "cutout", "--out", str(tmp_path / "sheet.png")]
    assert program(["show", *options]) == 0
    assert texts == ["$x_1$.png", f"{'a' * 13}…{'z' * 9}.png", "b.png"]


def test_torchvision_s_weights_come_from_the_cache(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(UserError, match=r"--pretrained: .*squeezenet1_1-.*\.pth is not there; download https://"):
        torchvision_weights("squeezenet1_1")
    file = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir()
    torch.manual_seed(3)
    made = torchvision.models.squeezenet1_1().eval()
    torch.save(made.state_dict(), file)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **_: torch.load(file))
    weights = torchvision_weights("squeezenet1_1")
    dataset = find_images([shapes / "val" / "star"], weights.meta["categories"])
    assert len(dataset.classes) == 1000
    trained = load_unrun("squeezenet1_1", dataset, weights=weights, image_size=64, seed=0)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trained.model.cpu()(images), made(images))
    sheet = make_sheet(trained, configure(trained, {"method": "cutout"}, dataset), dataset, count=2, seed=0)
    assert all(name.endswith(", predicted") for name in sheet.names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "show needs the folder of a run, or --model NAME with --data IMAGE_OR_DIR"),
        (["--data", "SHAPES"], "show needs the folder of a run, or --model"),
        (["--model", "small"], "--model needs --data IMAGE_OR_DIR"),
        (["run", "--pretrained"], "--pretrained needs --model; a run has its own"),
        (["run", "--image-size", "32"], "--image-size needs --model; a run has its own"),
        (["--model", "resnet81", "--data", "SHAPES"], "--model resnet81: no such model"),
        (["--model", "small", "--pretrained", "--data", "SHAPES"], "--pretrained is for torchvision's models"),
        (["--model", "vit_b_16", "--image-size", "65", "--data", "SHAPES"], "--model vit_b_16 cannot be built for"),
        (["--model", "vgg11", "--image-size", "16", "--data", "SHAPES"], "--model vgg11 takes no images of --image-"),
        (["--model", "small", "--data", "nowhere.png"], "nowhere.png: no such file or folder"),
        (["--model", "small", "--data", "SHAPES", "--method", "cutout", "--tau", "0.5"], "--tau has no effect with"),
        (["--model", "small", "--data", "SHAPES/val/star/0000.jpg", "--method", "mixup"], "mixes two images; got one"),
    ],
)
def test_errors(words: list[str], message: str, shapes: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert program(["show", *(word.replace("SHAPES", str(shapes)) for word in words)]) == 2
    assert message in capsys.readouterr().err
