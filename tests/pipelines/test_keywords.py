"""Keyword arguments that `image_loader` does not have: those of other loaders, and slips."""

import inspect
import re
from pathlib import Path

import pytest
from mypy import api
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from pipelines import image_loader
from pipelines.arguments import _OTHER_WORDS

ROOT = Path(__file__).parents[2]
OWN = set(inspect.signature(image_loader).parameters)
THEIRS = [*inspect.signature(DataLoader.__init__).parameters, "transform", "target_transform"]


@pytest.mark.parametrize("name", sorted({*THEIRS} - OWN - {"self"}))
def test_the_arguments_of_a_data_loader_are_explained(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^image_loader\(\) has no argument '{name}': ") as caught:
        image_loader("/data", batch_size=4, **{name: None})  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_explanations_name_arguments_that_there_are() -> None:
    assert set(inspect.signature(ImageFolder.__init__).parameters) >= {"transform", "target_transform"}
    assert not OWN.intersection(_OTHER_WORDS)
    for remedy in _OTHER_WORDS.values():
        named = re.findall(r"(\w+)=", remedy)
        assert set(named) <= OWN
        assert named or "leave it out" in remedy or "Dataset" in remedy, remedy


@pytest.mark.parametrize(
    ("name", "words"),
    [("num_workers", "num_threads="), ("pin_memory", "device="), ("prefetch_factor", "leave it out"),
     ("transform", "policy="), ("generator", "seed="), ("dataset", "root=")],
)  # fmt: skip
def test_some_of_them(name: str, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        image_loader("/data", batch_size=4, **{name: 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("batchsize", "batch_size"), ("BATCH_SIZE", "batch_size"), ("num_thread", "num_threads"), ("polcy", "policy"),
     ("world", "world_size"), ("dtypes", "dtype")],
)  # fmt: skip
def test_slips(name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"^image_loader\(\) has no argument '{name}'\. Did you mean '{meant}'\?$"):
        image_loader("/data", batch_size=4, **{name: 1})  # type: ignore[arg-type]


def test_what_is_like_nothing_and_what_python_says_itself() -> None:
    with pytest.raises(TypeError, match=r"^image_loader\(\) has no argument 'xyzzy'$"):
        image_loader("/data", batch_size=4, xyzzy=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^image_loader\(\) missing 1 required keyword-only argument: 'batch_size'$"):
        image_loader("/data")  # type: ignore[call-arg]


def test_type_checkers_know_the_signature(tmp_path: Path) -> None:
    """They refuse what it refuses, and know what it returns."""
    program = tmp_path / "program.py"
    program.write_text(
        "from pipelines import image_loader\n"
        "reveal_type(image_loader('/data', batch_size=4))\n"
        "image_loader('/data', batch_size=4, num_workers=8)\n"
        "image_loader('/data', batch_size='4')\n"
        "image_loader('/data')\n"
        "image_loader('/data', batch_size=4, sampler=lambda epoch: range(epoch), weights=[0.5, 1])\n"
        "for inputs, labels in image_loader('/data', batch_size=4).pairs():\n"
        "    reveal_type(labels)\n"
    )
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    report, *_ = api.run([*options, str(program)])
    lines = [line.partition("program.py:")[2] for line in report.splitlines() if "program.py:" in line]
    assert [(line.split(":")[0], line.rpartition("[")[2].rstrip("]")) for line in lines if "error" in line] == [
        ("3", "call-arg"), ("4", "arg-type"), ("5", "call-arg"),
    ]  # fmt: skip
    assert [line.partition("type is ")[2] for line in lines if "note: Revealed" in line] == [
        '"pipelines.loading.loader.ImageLoader"', '"torch._tensor.Tensor"',
    ]  # fmt: skip
