"""Write the weights that validated best in a run as a plain state_dict in safetensors.

The file loads into torchvision's or timm's own constructor, without this project; the early head is left out. Its
header has the classes, the normalisation, the image size and the code that loads it, which is printed too. Models that
are in neither library (small, and the CIFAR forms except resnet18_cifar, which is torchvision's with another stem) load
into train.models.registry.OWN[NAME](num_classes=N).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from dali_salaug import __version__
from train.analysis.trained import load_best
from train.cli.parser import add_run, check_writable
from train.engine import checkpoint
from train.engine.files import atomic_write
from train.errors import UserError
from train.models.registry import Origin, origin

SUFFIX = ".safetensors"

# Two lines make this model of torchvision's.
_RESNET18_CIFAR = """\
import torch
import torchvision
from safetensors.torch import load_file

model = torchvision.models.resnet18(num_classes={num_classes})
model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
model.maxpool = torch.nn.Identity()
"""


def loading_code(made: Origin, file_name: str) -> str:
    """Return Python code that loads the exported file into `model`, in eval mode.

    It needs nothing of this project, unless neither torchvision nor timm has the architecture.
    """
    options = ", ".join(f"{name}={value!r}" for name, value in made.options.items())
    if made.name == "resnet18_cifar":
        code = _RESNET18_CIFAR.format_map(made.options)
    elif made.library == "dali_salaug":
        code = "from safetensors.torch import load_file\n"
        code += "from train.models.registry import OWN  # pip install dali-salaug\n\n"
        code += f"model = OWN[{made.name!r}]({options})\n"
    else:
        function = {"torchvision": "torchvision.models.get_model", "timm": "timm.create_model"}[made.library]
        code = f"import {made.library}\nfrom safetensors.torch import load_file\n\n"
        code += f"model = {function}({made.name!r}, {options})\n"
    return code + f"model.load_state_dict(load_file({file_name!r}))\nmodel.eval()\n"


def read_run(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights that validated best in a run, and what one has to know to use them.

    Args:
        run: its folder, or its best.pt.

    Returns:
        The `state_dict` of the model, without the early head, on the CPU; each tensor is contiguous and has memory of
        its own. And "model", "library", "num_classes" and so on, see docs/export.md.

    Raises:
        UserError: there is no best.pt, or it is not of this program.
    """
    trained = load_best(run)
    path = run / checkpoint.BEST if run.is_dir() else run
    state = checkpoint.load(path)
    if not isinstance(state.get("epoch"), int) or not isinstance(state.get("val_top1"), float | int):
        raise UserError(f"{path}: not the best network of a run; pass the run's folder, or its best.pt")
    made = origin(trained.config.model, len(trained.classes), trained.config.image_size)
    weights = {name: value.cpu().contiguous().clone() for name, value in trained.model.state_dict().items()}
    return weights, {
        "model": made.name,
        "library": made.library,
        "options": made.options,
        "num_classes": len(trained.classes),
        "classes": trained.classes,
        "mean": trained.mean.flatten().tolist(),
        "std": trained.std.flatten().tolist(),
        "image_size": trained.config.image_size,
        "resize_to": state["resize_to"],
        "epoch": state["epoch"],
        "val_top1": state["val_top1"],
        "method": trained.config.method,
        "dali_salaug": __version__,
    }


def export(run: Path, out: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the weights of a run to a file, whole or not at all, with the facts of `read_run` in its header.

    The header's values are texts; facts of other types are JSON. "load" is the code of `loading_code`.

    Args:
        run: its folder, or its best.pt.
        out: the file; None: MODEL.safetensors in the run's folder.

    Returns:
        The file, and the facts in its header.

    Raises:
        UserError: as `read_run`, or the file cannot be written.
    """
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        check_writable(out)
    weights, facts = read_run(run)
    path = out or (run if run.is_dir() else run.parent) / f"{facts['model']}{SUFFIX}"
    facts["load"] = loading_code(Origin(facts["library"], facts["model"], facts["options"]), path.name)
    header = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    with atomic_write(path, "export again") as file:
        file.write(save(weights, metadata={"format": "pt", **header}))
    return path, facts


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"file to write (default: MODEL{SUFFIX} in the run's folder)"
    )


def run(options: argparse.Namespace) -> int:
    """Export as the command line states. Returns the exit status, 0.

    Raises:
        UserError: as `export`, and for an illegal --out.
    """
    if options.out is not None and options.out.suffix != SUFFIX:
        raise UserError(f"--out must end in {SUFFIX}; got {options.out}")
    path, facts = export(options.run, options.out)
    print(
        f"{path}: {facts['model']} after epoch {facts['epoch']}, top-1 {facts['val_top1']:.2f} %,"
        f" {path.stat().st_size / 1e6:.1f} MB. To load it:\n\n{facts['load']}"
    )
    return 0
