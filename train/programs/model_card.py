"""The model card of exported weights: a README.md with YAML front matter, as model hubs read it."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from dali_salaug import METHODS
from dali_salaug.methods import MethodEntry
from train.config import ResolvedConfig
from train.config.options import is_of
from train.engine.log import LOG, read_log
from train.errors import UserError

CARD = "README.md"
MARK = "---\n# Written by dali-salaug export."  # how a card begins; another file of its name is not replaced
_FIGURES = {"val_top1": "top-1 accuracy, %", "val_top5": "top-5 accuracy, %", "val_loss": "loss"}
_OF_THE_MACHINE = ("data", "out", "workers", "device", "accept_changed_data")
_PATHS = ("val_data", "weights", "policy")
_MOST_CLASSES = 20  # that are named in the text; the weights' header has all
_MOST_CHARACTERS = 60

_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession({name!r})
(logits,) = session.run(["logits"], {{"images": images}})  # NumPy, float32, (N, 3, {side}, {side})
"""


def card_path(weights: Path) -> Path:
    """Return where the card of a file of weights goes: README.md beside it, or NAME-card.md where a foreign one is."""
    path = weights.with_name(CARD)
    if not path.exists() or (path.is_file() and path.read_bytes().startswith(MARK.encode())):
        return path
    return weights.with_name(f"{weights.stem}-card.md")


def model_card(facts: Mapping[str, Any], config: ResolvedConfig, weights: Path, run: Path, onnx: Path | None) -> str:
    """Return the text of a card.

    Args:
        facts: as in the header of the weights, see docs/export.md.
        config: of the run.
        weights: the exported file.
        run: the folder of the run, whose log has the figures.
        onnx: the exported network; None: there is none.

    Raises:
        KeyError: the method is unknown.
    """
    entry = METHODS[config.method]
    parts = [
        f"{MARK}\n{_front_matter(facts, config)}---\n",
        f"# {_plain(facts['model'])}, trained with {config.method}\n",
        f"An image classifier of {facts['num_classes']} classes for images of {facts['image_size']}×"
        f"{facts['image_size']} pixels, trained with dali_salaug {facts['dali_salaug']}. It is the network of the epoch"
        f" with the best validation, {facts['epoch']} of {config.epochs}.\n",
        "## Figures\n",
        _figures(facts, run),
        "## How to load it\n",
        f"```python\n{facts['load']}```\n",
        *([] if onnx is None else [f"```python\n{_ONNX.format(name=onnx.name, side=facts['image_size'])}```\n"]),
        f"The input is (pixel / 255 − mean) / std with mean {_numbers(facts['mean'])} and std {_numbers(facts['std'])},"
        f" for the channels R, G, B. Validation resizes the shorter side to {facts['resize_to']} pixels and crops the"
        f" centre.{'' if onnx is None else ' The ONNX file takes any number of images of this size.'}\n",
        "## Data\n",
        f"Images: {_data_name(config.data)}. {_validation(config)}{_classes(facts['classes'])}\n",
        "## Method\n",
        _method(entry, config) + _start(config),
        "## Configuration\n",
        f"```yaml\n{_configuration(config)}```\n",
    ]
    return "\n".join(parts)


def _front_matter(facts: Mapping[str, Any], config: ResolvedConfig) -> str:
    task = {"type": "image-classification"}
    data = {"name": _data_name(config.val_data or config.data), "type": "image-folder"}  # on which it is measured
    metric = {"type": "accuracy", "name": "top-1 accuracy", "value": round(facts["val_top1"] / 100, 4)}
    content = {
        "library_name": facts["library"],
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "pytorch", "dali_salaug", config.method],
        "metrics": ["accuracy"],
        "model-index": [
            {"name": facts["model"], "results": [{"task": task, "dataset": data, "metrics": [metric]}]},
        ],
    }  # the licence is the user's to choose
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _figures(facts: Mapping[str, Any], run: Path) -> str:
    try:
        lines = read_log(run / LOG)
    except (OSError, UserError):  # best.pt alone was copied; it has the accuracy
        lines = []
    logged: dict[str, Any] = next((line for line in reversed(lines) if line["epoch"] == facts["epoch"]), {})
    values = {name: logged[name] for name in _FIGURES if is_of(logged.get(name), float)}
    values["val_top1"] = facts["val_top1"]
    rows = [f"| {words} | {values[name]:.4g} |" for name, words in _FIGURES.items() if name in values]
    return "\n".join(["| on the validation images | |", "| --- | --- |", *rows]) + "\n"


def _data_name(data: str | None) -> str:
    return "the embedded shapes" if data is None else _last_part(data)


def _validation(config: ResolvedConfig) -> str:
    return "" if config.val_data is None else f"Validation images: {_last_part(config.val_data)}. "


def _last_part(path: str | None) -> str:
    """Return what is the same on other machines of a path."""
    return _plain(PurePosixPath(path or "").name)


def _classes(names: list[str]) -> str:
    listed = ", ".join(f"`{_plain(name)}`" for name in names[:_MOST_CLASSES])
    rest = len(names) - _MOST_CLASSES
    return f"Classes, in the order of the logits: {listed}{f', and {rest} more' if rest > 0 else ''}."


def _method(entry: MethodEntry, config: ResolvedConfig) -> str:
    source = f" ({entry.source}{f'; {entry.reference}' if entry.reference else ''})" if entry.source else ""
    sentences = [f"In training, the network's input is {entry.description}{source}."]
    method = entry.build(2)
    if method.uses_augmented:
        sentences.append(f"The policy is {_last_part(config.policy)}.")
    if method.uses_saliency:
        sentences.append(
            f"The saliency map of the live model (method {_plain(config.saliency)}, target"
            f" {_plain(config.saliency_target)}) has {config.saliency_scale:g} times the image's side."
        )
    return " ".join(sentences) + "\n"


def _start(config: ResolvedConfig) -> str:
    if not config.pretrained and config.weights is None:
        return ""
    source = "the published weights of the model" if config.weights is None else _last_part(config.weights)
    return f"\nTraining started from {source}{', whose trunk it kept' if config.freeze_trunk else ''}.\n"


def _configuration(config: ResolvedConfig) -> str:
    options = {name: value for name, value in config.to_dict().items() if name not in _OF_THE_MACHINE}
    for name, value in options.items():
        if isinstance(value, str) and name != "model":  # which is a known one, such as timm/resnet18
            options[name] = _last_part(value) if name in _PATHS else _plain(value)
    return yaml.safe_dump(options, sort_keys=False)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _plain(text: object) -> str:
    """Return a name from a checkpoint as text that is no markup: short, in one line, without code marks."""
    line = re.sub(r"[\s\x00-\x1f\x7f`|<>\[\]]+", " ", str(text)).strip()
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
