"""What a new run starts from: published weights, or those in a file, of which a head for other classes is left out."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipelines.graph.crops import LEAST
from pipelines.readers.untrusted import open_regular
from train.config import Config, ResolvedConfig
from train.distributed import ALONE, World
from train.engine import checkpoint
from train.engine.memory import is_out_of_memory
from train.errors import UserError, first_line
from train.models.layers import head_of, is_of
from train.models.published import UNKNOWN, Facts, Source, published
from train.models.registry import check_model

SHOWN = 3  # parameters that an error names
MAX_SIDE = 1 << 14  # pixels
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
AUXILIARY = ("aux1", "aux2", "AuxLogits")  # heads of GoogLeNet and Inception, which are built without them


def read_source(config: Config, world: World = ALONE) -> Source | None:
    """Return the weights that a new run of a configuration starts from; None: from random ones. Together.

    Raises:
        UserError: they cannot be fetched or read.
    """
    if config.weights is not None:
        return read_weights(Path(config.weights))
    if not config.pretrained:
        return None
    if not world.is_main:
        world.wait()  # for the main process, which downloads
    source = published(config.model)
    if world.is_main:
        world.wait()
    return source


def source_of(config: Config, stated: Collection[str], world: World = ALONE) -> Source | None:
    """Return the weights that a new run starts from, whose model becomes the configuration's where none is stated."""
    source = read_source(config, world)
    if source is not None and source.model is not None and "model" not in stated:
        config.model = source.model
    return source


def read_weights(path: Path, option: str = "--weights") -> Source:
    """Return the weights in a file, which runs no code.

    Args:
        path: the folder of a run; its best.pt or last.pt; an export or another .safetensors; or a `state_dict` that
            torch.save wrote, which may be under "state_dict" or "model", and have names that begin with "module.".
        option: that names it, for messages.

    Raises:
        UserError: the file cannot be read, or holds no weights.
    """
    if path.is_dir():
        path = path / checkpoint.BEST
    with _reading(path, option):
        with open_regular(path) as file:  # of what is neither file nor folder, such as a FIFO, opening may never return
            if checkpoint.is_sealed(file):
                return _run(path)
            if path.suffix == ".safetensors":
                return _safetensors(path)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        return Source(_state_dict(content), str(path), UNKNOWN)


@contextmanager
def _reading(path: Path, option: str) -> Iterator[None]:
    """Turn whatever the reading of a file raises into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.filename is not None:  # others come from within a damaged file
            raise UserError(f"{option} {path}: cannot be read: {error.strerror or error}") from error
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else first_line(error)
        if "weights_only" in str(error):  # torch's advice is to load the file unsafely
            why = "it holds more than tensors and plain values, which is not loaded, for it may run code"
        raise UserError(
            f"{option} {path}: no weights that can be read: {why}. Legal are a run's folder or best.pt, .safetensors,"
            " and a state_dict that torch.save wrote"
        ) from error


def _run(path: Path) -> Source:
    state, config = checkpoint.load_any_run(path)
    if not isinstance(config, ResolvedConfig):
        raise UserError(f"{path} is of a run of the command {config.task}, whose weights are not those of a classifier")
    facts = _facts(config.image_size if config.is_classifier else 8, state["mean"], state["std"])
    if not config.is_classifier:
        facts = facts._replace(image_size=None)
    return Source(_state_dict(state["model"]), str(path), facts, _known(config.model), state["classes"])


def _safetensors(path: Path) -> Source:
    """Return the weights in a safetensors file, with what the header of an export says of them."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    source = Source(_state_dict(weights), str(path), UNKNOWN)
    if "dali_salaug" not in header:
        return source
    facts = _facts(*(json.loads(header[name]) for name in ("image_size", "mean", "std")))
    model = _known(("timm/" if header["library"] == "timm" else "") + header["model"])
    return source._replace(facts=facts, model=model, classes=json.loads(header["classes"]))


def _facts(image_size: Any, mean: Any, std: Any) -> Facts:
    if not isinstance(image_size, int) or not 8 <= image_size <= MAX_SIDE:
        raise ValueError(f"its image size is {image_size!r:.50}")
    for values in (mean, std):
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(_is_share(v) for v in values):
            raise ValueError(f"its normalisation is {values!r:.50}")
    if min(std) < LEAST:
        raise ValueError("its normalisation divides by almost 0")
    return Facts(image_size, tuple(mean), tuple(std))


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _known(model: str) -> str:
    try:
        check_model(model)
    except UserError as error:
        raise ValueError(f"its model is {model!r:.50}, which is unknown here") from error
    return model


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a loaded file by their names.

    Raises:
        ValueError: it holds something else.
    """
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"it holds {'nothing' if content == {} else f'a {type(content).__name__}'}")
    for name, value in content.items():
        if not _is_plain(name, value):
            raise ValueError(f"its {name!r} is no dense tensor of real numbers")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _is_plain(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in DTYPES
    )


def load_start(model: nn.Module, classes: list[str], source: Source, name: str) -> str:
    """Load the weights that a run starts from, without those of a head for other classes.

    Args:
        model: in its initial state.
        classes: of the run.
        source: the weights.
        name: of the model, for messages.

    Returns:
        A sentence: what was loaded, and what starts anew.

    Raises:
        UserError: the weights are not those of the model. The message names the parameters.
    """
    own, head = model.state_dict(), head_of(model, len(classes))
    weights = {n: w for n, w in source.weights.items() if not is_of(n, AUXILIARY) or n in own}
    weights = _at_image_size(model, weights)
    same = source.classes in (None, classes)
    anew = [h for h in head if not (same and all(_same_shape(weights.get(n), own[n]) for n in own if is_of(n, [h])))]
    weights = {n: w for n, w in weights.items() if not is_of(n, anew)}
    expected = [n for n in own if not is_of(n, anew)]
    # State of an older torch has no counts of batches, and torch does without.
    problems = [f"{n} is missing" for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    problems += [f"{n} is unknown" for n in weights if n not in own]
    problems += [
        f"{n} is {tuple(weights[n].shape)}, not {tuple(own[n].shape)}"
        for n in expected
        if n in weights and weights[n].shape != own[n].shape
    ]
    if not problems:  # of another shape it may be as large as a file likes
        problems = [f"{n} is not finite" for n in expected if n in weights and not weights[n].isfinite().all()]
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        known = f"of --model {source.model}, not of" if source.model not in (None, name) else "not those of"
        raise UserError(f"{source.name}: its weights are {known} --model {name}: {'; '.join(problems[:SHOWN])}{more}")
    model.load_state_dict(weights, strict=False)
    new = f"; the head ({', '.join(anew)}) starts anew for {len(classes)} classes" if anew else ", the head too"
    return f"starting from the weights of {source.name}{new}"


def _same_shape(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape


def _at_image_size(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a torchvision ViT with its position embedding interpolated to the model's image size."""
    from torchvision.models import VisionTransformer
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    if not isinstance(model, VisionTransformer) or name not in weights:
        return weights
    if weights[name].ndim != 3 or weights[name].shape[::2] != model.encoder.pos_embedding.shape[::2]:
        return weights
    try:
        return dict(interpolate_embeddings(model.image_size, model.patch_size, dict(weights)))
    except (RuntimeError, ValueError):  # the embedding is not of a square, which its shape will tell
        return weights
