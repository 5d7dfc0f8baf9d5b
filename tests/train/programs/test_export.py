"""Exported weights: they load where this project cannot be imported, and the network answers the same."""

import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml
from safetensors import safe_open

from train.__main__ import main
from train.analysis.trained import load_best
from train.engine import checkpoint
from train.errors import UserError
from train.models.registry import build_model
from train.programs.export import onnx_of

MODELS = {
    "resnet18": ("--method=cutout",),
    "timm/test_resnet": ("--method=cutout",),
    "resnet18_cifar": ("--method=cutout", "--early-head=auto"),
    "vit_small": ("--method=cutout",),
    "small": ("--method=cutout", "--early-head=auto"),
}
INPUTS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

ELSEWHERE = """
import sys
import torch
for name in ("dali_salaug", "pipelines", "train"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from safetensors import safe_open
for path in sys.argv[1:]:
    with safe_open(path, "pt") as file:
        names = {}
        exec(file.metadata()["load"], names)
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.save(names["model"](inputs), path + ".logits")
"""


def file_of(runs: Path, model: str) -> Path:
    return runs / model / f"{model.removeprefix('timm/')}.safetensors"


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.fixture(scope="module")
def runs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of each model in the folder of its name, and exported."""
    folder = tmp_path_factory.mktemp("runs")
    for model, options in MODELS.items():
        small = ["--image-size=32", "--batch-size=8", "--region-size=8", "--train-images=16", "--epochs=1"]
        assert main([f"--data={shapes}", f"--model={model}", f"--out={folder / model}", *small, *options]) == 0
        assert main(["export", str(folder / model)]) == 0
    return folder


def logits_here(runs: Path, model: str) -> torch.Tensor:
    with torch.no_grad():
        return load_best(runs / model).model.cpu().eval()(INPUTS)


def test_they_load_without_this_project(runs: Path) -> None:
    others = [model for model in MODELS if model != "small"]
    files = [file_of(runs, model) for model in others]
    names = [str(path.relative_to(runs)) for path in files]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for path in files:  # the code in the header names the file alone
        (runs / path.name).symlink_to(path)
    subprocess.run([sys.executable, "-c", ELSEWHERE, *names], cwd=runs, env=environment, check=True)
    for model, path in zip(others, files, strict=True):
        logits = torch.load(f"{path}.logits", weights_only=True)
        assert logits.std() > 0
        torch.testing.assert_close(logits, logits_here(runs, model))


def test_a_model_of_our_own_loads_into_its_constructor(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs / "small")
    names: dict = {}
    exec(header(file_of(runs, "small"))["load"], names)
    with torch.no_grad():
        assert torch.equal(names["model"](INPUTS), logits_here(runs, "small"))


def test_the_header_says_what_one_has_to_know(runs: Path, shapes: Path) -> None:
    said = header(file_of(runs, "timm/test_resnet"))
    classes = sorted(path.name for path in (shapes / "train").iterdir())
    assert (said["format"], said["model"], said["library"]) == ("pt", "test_resnet", "timm")
    values = {name: json.loads(said[name]) for name in ("classes", "num_classes", "image_size", "resize_to", "epoch")}
    assert values == {"classes": classes, "num_classes": 8, "image_size": 32, "resize_to": 32, "epoch": 1}
    best = load_best(runs / "timm/test_resnet")
    for name in ("mean", "std"):
        assert json.loads(said[name]) == getattr(best, name).flatten().tolist()
    logged = json.loads((runs / "timm/test_resnet" / "log.jsonl").read_text())
    assert json.loads(said["val_top1"]) == pytest.approx(logged["val_top1"], abs=1e-5)


def test_the_page_explains_the_header(runs: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", page, flags=re.M)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert explained == set(header(file_of(runs, "resnet18"))) - {"format"}


def card(path: Path) -> tuple[dict, str]:
    """The front matter and the rest."""
    _, front, text = path.read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_says_what_a_hub_reads(runs: Path, shapes: Path) -> None:
    front, text = card(runs / "timm/test_resnet" / "README.md")
    assert front["library_name"] == "timm"
    assert front["pipeline_tag"] == "image-classification"
    assert {"dali_salaug", "cutout"} < set(front["tags"])
    assert "license" not in front
    (model,) = front["model-index"]
    (result,) = model["results"]
    logged = json.loads((runs / "timm/test_resnet" / "log.jsonl").read_text())
    assert (model["name"], result["dataset"]["name"]) == ("test_resnet", shapes.name)
    assert result["metrics"][0]["value"] == pytest.approx(logged["val_top1"] / 100, abs=1e-4)

    assert f"| top-1 accuracy, % | {logged['val_top1']:.4g} |" in text
    assert f"| loss | {logged['val_loss']:.4g} |" in text
    assert header(file_of(runs, "timm/test_resnet"))["load"] in text
    assert "a square at a random place set to zero (DeVries & Taylor 2017" in text
    for name in (path.name for path in (shapes / "train").iterdir()):
        assert f"`{name}`" in text
    configuration = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, flags=re.S)[0])
    best = load_best(runs / "timm/test_resnet").config
    assert configuration["lr"] == best.lr
    assert (configuration["method"], configuration["model"]) == ("cutout", "timm/test_resnet")
    assert "Training started from" not in text
    assert str(shapes.parent) not in text, "no path of this machine"


def test_the_card_of_a_fine_tuned_run_validated_elsewhere(runs: Path, tmp_path: Path) -> None:
    """The accuracy is that on the other images, and the card names the weights that the run started from."""
    state = checkpoint.load(runs / "small" / "best.pt")
    state["config"] |= {"val_data": "/home/me/others", "weights": "/home/me/runs/first", "freeze_trunk": True}
    checkpoint.save(state, tmp_path / "best.pt")
    assert main(["export", str(tmp_path / "best.pt")]) == 0
    front, text = card(tmp_path / "README.md")
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "others"
    assert "Validation images: others. " in text
    assert "\n\nTraining started from first, whose trunk it kept.\n" in text
    assert "/home" not in text


def test_the_card_of_hostile_names_is_still_one(runs: Path, tmp_path: Path) -> None:
    """Class names of a checkpoint cannot end a block, begin a heading or a table, or take up the page."""
    state = checkpoint.load(runs / "small" / "best.pt")
    state["classes"] = ["```\n# heading\n---", "| a | b |", "<script>", "[x](y)", "x" * 1000, *state["classes"][5:]]
    checkpoint.save(state, tmp_path / "best.pt")
    assert main(["export", str(tmp_path / "best.pt")]) == 0
    front, text = card(tmp_path / "README.md")
    assert front["model-index"][0]["name"] == "small"
    for mark in ("# heading", "| a |", "<script>", "[x]"):
        assert not re.search(rf"^{re.escape(mark)}", text, flags=re.M)
    assert "<" not in text
    assert text.count("```") == 4, "two blocks: to load it, and the configuration"
    assert "x" * 100 not in text


def test_a_readme_of_the_users_is_left_alone(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    command = ["export", str(runs / "small"), "--out", str(tmp_path / "mine.safetensors")]
    assert main(command) == 0
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    first = (tmp_path / "mine-card.md").read_text()
    assert f"{tmp_path / 'mine-card.md'}, the model card" in capsys.readouterr().out
    (tmp_path / "README.md").write_text(first.replace("small", "old"))  # a card of ours is written anew
    assert main(command) == 0
    assert (tmp_path / "README.md").read_text() == first


def test_onnx_answers_as_the_network(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For batches of any size, by onnxruntime, as the card explains it."""
    assert main(["export", str(runs / "small"), "--onnx", "--out", str(tmp_path / "net.safetensors")]) == 0
    assert f"{tmp_path / 'net.onnx'}, as ONNX" in capsys.readouterr().out
    network = load_best(runs / "small").model.cpu().eval()
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for count in (1, 5):
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-5)
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["classes"]) == load_best(runs / "small").classes
    code = re.findall(r"```python\n(import onnxruntime.*?)```", (tmp_path / "README.md").read_text(), flags=re.S)[0]
    names = {"images": INPUTS.numpy()}
    exec(code.replace("'net.onnx'", repr(str(tmp_path / "net.onnx"))), names)
    torch.testing.assert_close(torch.from_numpy(names["logits"]), network(INPUTS).detach(), rtol=1e-4, atol=1e-5)


def test_what_onnx_cannot_do(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfValues(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) if images.sum().item() > 0 else images.mean((2, 3)) * 2

    with pytest.raises(UserError, match="--onnx: this network cannot be written as ONNX: "):
        onnx_of(OfValues(), 8, {})
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    out = tmp_path / "net.safetensors"
    assert main(["export", str(runs / "small"), "--onnx", "--out", str(out)]) == 2
    assert "--onnx needs onnxscript: pip install onnxscript" in capsys.readouterr().err
    assert not out.exists()


def test_from_the_file_to_a_file(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.safetensors"
    assert main(["export", str(runs / "small" / "best.pt"), "--out", str(out)]) == 0
    assert 'load_file("mine.safetensors")' in header(out)["load"].replace("'", '"')
    assert header(out)["load"] in capsys.readouterr().out


def test_what_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(runs / "small"), "--out", "mine.pt"]) == 2
    assert "--out must end in .safetensors; got mine.pt" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "best.pt: no such checkpoint" in error
    assert "--resume" not in error


def test_a_file_that_cannot_be_written(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to resume."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "small.safetensors"
    monkeypatch.setattr(os, "fsync", full)
    assert main(["export", str(runs / "small"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.strip().endswith("then export again")


@pytest.mark.parametrize("name", ["vit_b_16", "googlenet"])
def test_models_with_options_of_their_own(name: str) -> None:
    """The constructor that is written down makes the model that was trained."""
    import torchvision

    from train.models.registry import origin

    library, own_name, options = origin(name, 3, 64)
    assert library == "torchvision"
    there = torchvision.models.get_model(own_name, **options)
    assert {k: v.shape for k, v in there.state_dict().items()} == {
        k: v.shape for k, v in build_model(name, 3, 64).state_dict().items()
    }
