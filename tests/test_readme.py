"""The README's code is run as it stands, on a small data set and a small network."""

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dali_salaug import SaliencyConsistency, WithEarlyHead
from train.models import FIRST_BLOCK, build_model
from train.shapes import SHAPES, write_shapes

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_training_loops_run(tmp_path: Path) -> None:
    write_shapes(tmp_path, train_per_class=2, val_per_class=1)
    loop, early, consistency = (
        code.replace("/data/imagenet", str(tmp_path)).replace("batch_size=256", "batch_size=8, image_size=32")
        for code in re.findall(r"```python\n(.*?)```", README, flags=re.S)
    )
    model = build_model("small", len(SHAPES), 32)
    before = [p.detach().clone() for p in model.parameters()]
    names: dict[str, Any] = {
        "F": F, "model": model, "epochs": 1, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip
    exec(loop, names)
    assert not any(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert names["inputs"].shape == (8, 3, 32, 32)

    # The family of the small net is not known to the library: the block has to be named, as the comment says.
    early = early.replace("num_classes)", f'num_classes, after="{FIRST_BLOCK["small"]}")', 1)
    names |= {"WithEarlyHead": WithEarlyHead, "num_classes": len(SHAPES)}
    exec(early, names)
    assert names["early"].shape == (8, len(SHAPES))
    names["loss"].backward()

    model.zero_grad()
    exec(consistency, names | {"SaliencyConsistency": SaliencyConsistency})
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_its_loop_is_under_fifteen_lines_and_its_links_are_there() -> None:
    loop = re.findall(r"```python\n(.*?)```", README, flags=re.S)[0]
    assert len([line for line in loop.splitlines() if line.strip()]) < 15
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
