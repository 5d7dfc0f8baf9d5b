"""docs/consistency.md: its code is run as it stands, its commands and options are the programs'."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from train import agreement, command_line, experiments
from train.benchmarks import program
from train.command_line import PRESETS
from train.config import Config
from train.models import build_model
from train.shapes import SHAPES, write_shapes

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "consistency.md").read_text()


def test_the_training_loops_run(tmp_path: Path) -> None:
    write_shapes(tmp_path, train_per_class=2, val_per_class=1)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    code = code.replace("/data/imagenet", str(tmp_path)).replace("batch_size=256", "batch_size=8, image_size=32")
    model = build_model("small", len(SHAPES), 32)
    before = [p.detach().clone() for p in model.parameters()]
    names: dict[str, Any] = {
        "model": model, "num_classes": len(SHAPES), "generator": torch.Generator().manual_seed(0),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip
    exec(code, names)
    assert not any(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert 0 < names["loss"].saliency < 1
    assert names["loss"].invariance is None


def test_the_options_are_the_programs() -> None:
    fields = {option.name: option for option in dataclasses.fields(Config) if option.name.startswith("consistency")}
    rows = re.findall(r"^\| `--(.+?)` \| (.+?) \| (.+) \|$", PAGE, flags=re.M)
    assert rows == [
        (name.replace("_", "-"), str(f.metadata["by_data"] or f.default), f.metadata["text"])
        for name, f in fields.items()
    ]
    presets = set(re.findall(r"`(consistency-\w+)`", PAGE))
    assert presets == {path.stem for path in PRESETS.glob("consistency-*.yaml")}


PARSERS = {
    "train": command_line, "train.agreement": agreement, "train.benchmark": program, "train.experiments": experiments,
}  # fmt: skip


@pytest.mark.parametrize("command", re.findall(r"^python -m (.+)$", PAGE, flags=re.M))
def test_the_commands_are_understood(command: str) -> None:
    module, *words = command.split("#")[0].split()
    PARSERS[module].build_parser().parse_args(words)
    if module == "train":
        given, _ = command_line.parse(words)
        Config(**given).check()


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((.+?)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
