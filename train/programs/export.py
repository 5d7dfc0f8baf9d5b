"""Write the weights that validated best in a run as a plain state_dict in safetensors, and a model card beside them.

The file loads into torchvision's or timm's own constructor, without this project; the early head is left out. Its
header has the classes, the normalisation, the image size and the code that loads it, which is printed too. Models that
are in neither library (small, and the CIFAR forms except resnet18_cifar, which is torchvision's with another stem) load
into train.models.registry.OWN[NAME](num_classes=N); vit_small is torchvision's VisionTransformer. The card is a
README.md as model hubs read it: figures, data, method, configuration, and how to load the weights.
"""

import argparse
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from dali_salaug import __version__
from train.analysis.trained import Trained, load_best
from train.cli.parser import add_run, check_writable
from train.config.options import is_of
from train.engine import checkpoint
from train.engine.files import atomic_write
from train.errors import UserError, first_line
from train.models.registry import Origin, origin
from train.models.vit import arguments
from train.programs.model_card import card_path, model_card

SUFFIX = ".safetensors"
ONNX_NEEDS = ("onnx", "onnxscript")

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
    elif made.name == "vit_small":
        sizes = ", ".join(f"{name}={value}" for name, value in arguments(**made.options).items())
        code = "from safetensors.torch import load_file\nfrom torchvision.models import VisionTransformer\n\n"
        code += f"model = VisionTransformer({sizes})\n"
    elif made.library == "dali_salaug":
        code = "from safetensors.torch import load_file\n"
        code += "from train.models.registry import OWN  # of the project dali_salaug, installed from its repository\n\n"
        code += f"model = OWN[{made.name!r}]({options})\n"
    else:
        function = {"torchvision": "torchvision.models.get_model", "timm": "timm.create_model"}[made.library]
        code = f"import {made.library}\nfrom safetensors.torch import load_file\n\n"
        code += f"model = {function}({made.name!r}, {options})\n"
    return code + f"model.load_state_dict(load_file({file_name!r}))\nmodel.eval()\n"


class Exported(NamedTuple):
    """The files that were written, and the facts in the header of the weights."""

    weights: Path
    card: Path
    onnx: Path | None
    facts: dict[str, Any]


def facts_of(trained: Trained, best: Path) -> dict[str, Any]:
    """Return what one has to know to use the weights: "model", "library", "num_classes" and so on, see docs/export.md.

    Args:
        trained: what `load_best` returned of the file `best`.

    Raises:
        UserError: the file is not the best network of a run.
    """
    state = checkpoint.load(best)
    if not is_of(state.get("epoch"), int) or not is_of(state.get("val_top1"), float):
        raise UserError(f"{best}: not the best network of a run; pass the run's folder, or its best.pt")
    made = origin(trained.config.model, len(trained.classes), trained.config.image_size)
    return {
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


def export(run: Path, out: Path | None = None, *, onnx: bool = False) -> Exported:
    """Write the weights of a run and their model card, each whole or not at all.

    The weights are the `state_dict` of the model, without the early head. Their header has the facts of `facts_of` as
    texts; facts of other types are JSON. "load" is the code of `loading_code`.

    Args:
        run: its folder, or its best.pt.
        out: the file of the weights; None: MODEL.safetensors in the run's folder.
        onnx: whether to write the network as ONNX too, with the same header, beside the weights.

    Raises:
        UserError: there is no best.pt, or it is not of this program; the network cannot be written as ONNX, or a
            package for that is missing; or a file cannot be written.
    """
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        check_writable(out)
    if onnx and (missing := [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]):
        raise UserError(f"--onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    best = run / checkpoint.BEST if run.is_dir() else run
    trained = load_best(best)
    facts = facts_of(trained, best)
    path = out or best.with_name(f"{facts['model']}{SUFFIX}")
    facts["load"] = loading_code(Origin(facts["library"], facts["model"], facts["options"]), path.name)
    header = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    network = trained.model.cpu().eval()
    graph = onnx_of(network, facts["image_size"], header) if onnx else None
    exported = Exported(path, card_path(path), path.with_suffix(".onnx") if onnx else None, facts)
    with checkpoint.reading(best):
        card = model_card(facts, trained.config, path, best.parent, exported.onnx)

    weights = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    contents = {path: save(weights, metadata={"format": "pt", **header}), exported.card: card.encode()}
    if exported.onnx is not None and graph is not None:
        contents[exported.onnx] = graph
    for file_path, content in contents.items():
        with atomic_write(file_path, "export again") as file:
            file.write(content)
    return exported


def onnx_of(network: nn.Module, image_size: int, header: dict[str, str]) -> bytes:
    """Return a network as ONNX: "images" (N, 3, S, S), float32, to "logits" (N, K), for any N.

    Args:
        network: on the CPU, in eval mode.
        header: the metadata of the file.

    Raises:
        UserError: torch cannot express the network in ONNX, or the file would exceed 2 GB.
    """
    import onnx

    example = torch.zeros(2, 3, image_size, image_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch itself does in the export
            program = torch.onnx.export(
                network,
                (example,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        onnx.helper.set_model_props(model, header)
        return model.SerializeToString()
    except Exception as error:  # of many libraries
        raise UserError(f"--onnx: this network cannot be written as ONNX: {first_line(error)}") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"file to write (default: MODEL{SUFFIX} in the run's folder)"
    )
    parser.add_argument("--onnx", action="store_true", help="write the network as ONNX too, beside the weights")


def run(options: argparse.Namespace) -> int:
    """Export as the command line states. Returns the exit status, 0.

    Raises:
        UserError: as `export`, and for an illegal --out.
    """
    if options.out is not None and options.out.suffix != SUFFIX:
        raise UserError(f"--out must end in {SUFFIX}; got {options.out}")
    path, card, onnx, facts = export(options.run, options.out, onnx=options.onnx)
    others = f"{'' if onnx is None else f'{onnx}, as ONNX. '}{card}, the model card."
    print(
        f"{path}: {facts['model']} after epoch {facts['epoch']}, top-1 {facts['val_top1']:.2f} %,"
        f" {path.stat().st_size / 1e6:.1f} MB. {others} To load it:\n\n{facts['load']}"
    )
    return 0
