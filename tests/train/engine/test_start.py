"""The weights that a run starts from: every form of file, what is refused, and which head starts anew."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.build import IMAGENET_MEAN, IMAGENET_STD
from train.config import Config
from train.engine import checkpoint
from train.engine.start import load_start, read_weights
from train.errors import UserError
from train.models.published import UNKNOWN, Source
from train.models.small import small
from train.programs.export import export

CLASSES = [f"class{number}" for number in range(5)]


def net(classes: int = 5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return small(classes, widths=(4, 4))


WEIGHTS = net().state_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the small network on five classes at 24×24 pixels."""
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(state_of_a_run(), folder / "best.pt")
    return folder


def state_of_a_run(**changes: Any) -> dict[str, Any]:
    config = Config(image_size=24).resolved(side=64, embedded=False, cifar=False)
    state = {"config": config.to_dict(), "classes": CLASSES, "model": small(5).state_dict(), "resize_to": 24}
    return state | {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "epoch": 3, "val_top1": 50.0} | changes


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("wrapped", ["bare", "state_dict", "model", "module"])
def test_a_state_dict(wrapped: str, tmp_path: Path) -> None:
    content: Any = {"bare": WEIGHTS, "module": {f"module.{name}": w for name, w in WEIGHTS.items()}}.get(wrapped)
    torch.save(content or {wrapped: WEIGHTS, "epoch": 3}, tmp_path / "w.pth")
    source = read_weights(tmp_path / "w.pth")
    assert equal(source.weights, WEIGHTS)
    assert source._replace(weights={}) == Source({}, str(tmp_path / "w.pth"), UNKNOWN)


def test_a_run_and_its_export_know_their_images(run: Path, tmp_path: Path) -> None:
    expected = checkpoint.load(run / "best.pt")["model"]
    exported = export(run, tmp_path / "w.safetensors").weights
    for path, name in ((run, run / "best.pt"), (run / "best.pt", run / "best.pt"), (exported, exported)):
        source = read_weights(path)
        assert equal(source.weights, expected)
        assert (source.facts.image_size, source.name, source.model) == (24, str(name), "small")
        assert source.facts.mean == pytest.approx((0.5, 0.4, 0.3))  # the header has them in float32
        assert source.facts.std == pytest.approx((0.2, 0.3, 0.4))
        assert source.classes == CLASSES
    save_file(WEIGHTS, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    assert read_weights(tmp_path / "foreign.safetensors")[2:] == (UNKNOWN, None, None)


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


def write(path: Path, kind: str) -> None:
    """Write what is no file of weights."""
    torch.save(WEIGHTS, path)
    content = path.read_bytes()
    if kind.startswith("code"):
        torch.save({"weight": Code(path.parent / "ran")}, path, _use_new_zipfile_serialization=kind == "code")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Code(path.parent / "ran")))
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "missing":
        path.unlink()
    elif kind == "sealed":
        checkpoint.save(state_of_a_run(mean=(0.5, 2.0, 0.5)), path)
    elif kind == "spoiled":
        checkpoint.save(state_of_a_run(), path)
        path.write_bytes(b"PK" + b"\0" + path.read_bytes()[3:])
    elif kind in CONTENTS:
        torch.save(CONTENTS[kind], path)
    else:
        path.write_bytes({"empty": b"", "text": b"<!DOCTYPE html>" * 50, "cut": content[: len(content) // 2]}[kind])


CONTENTS: dict[str, Any] = {
    "list": [torch.zeros(2)],
    "nothing": {},
    "number": {"weight": 1.0},
    "unnamed": {3: torch.zeros(2)},
    "sparse": {"weight": torch.eye(3).to_sparse()},
    "complex": {"weight": torch.zeros(2, dtype=torch.complex64)},
    "meta": {"weight": torch.zeros(2, device="meta")},
}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("code", "it holds more than tensors and plain values, which is not loaded, for it may run code"),
        ("code of old", "it holds more than tensors"),
        ("pickle", "no weights that can be read"),
        ("fifo", "cannot be read: it is a FIFO"),
        ("missing", "cannot be read: No such file or directory"),
        ("empty", "no weights that can be read"),
        ("text", "no weights that can be read"),
        ("cut", "no weights that can be read"),
        ("sealed", "its normalisation is (0.5, 2.0, 0.5)"),
        ("spoiled", "not a checkpoint of this program, or damaged: its checksum is that of another content"),
        ("list", "it holds a list"),
        ("nothing", "it holds nothing"),
        ("number", "its 'weight' is no dense tensor of real numbers"),
        ("unnamed", "its 3 is no dense tensor"),
        ("sparse", "its 'weight' is no dense tensor"),
        ("complex", "its 'weight' is no dense tensor"),
        ("meta", "its 'weight' is no dense tensor"),
    ],
)
def test_what_is_no_file_of_weights(kind: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    write(path, kind)
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert "weights_only" not in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": "100000"}, "its image size is 100000"),
        ({"image_size": '"big"'}, "its image size is 'big'"),
        ({"image_size": "["}, "no weights that can be read: Expecting value"),
        ({"mean": "[0.5, 0.5]"}, r"its normalisation is \[0.5, 0.5\]"),
        ({"std": "[0, 1, 1]"}, "its normalisation divides by almost 0"),
        ({"std": "[1e-300, 1, 1]"}, "its normalisation divides by almost 0"),
        ({"std": "[true, 0.5, 0.5]"}, r"its normalisation is \[True, 0.5, 0.5\]"),
        ({"mean": "[NaN, 0, 0]"}, r"its normalisation is \[nan, 0, 0\]"),
        ({"model": "resnt18"}, "its model is 'resnt18', which is unknown here"),
        ({"classes": None}, "'classes' is missing"),
    ],
)
def test_an_export_with_a_malformed_header(changes: dict[str, str | None], says: str, tmp_path: Path) -> None:
    header = {"dali_salaug": "0.1.0", "model": "small", "library": "dali_salaug", "image_size": "24"}
    header |= {"mean": json.dumps(IMAGENET_MEAN), "std": json.dumps(IMAGENET_STD), "classes": "[]"}
    path = tmp_path / "w.safetensors"
    save_file(WEIGHTS, path, metadata={k: v for k, v in (header | changes).items() if v is not None})
    with pytest.raises(UserError, match=rf"--weights {path}: no weights that can be read: .*{says.split(': ')[-1]}"):
        read_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 10])
    with pytest.raises(UserError, match=rf"--weights {path}: no weights that can be read: "):
        read_weights(path)


def source_of(weights: dict[str, Tensor], **changes: Any) -> Source:
    return Source(weights, "w.pt", UNKNOWN)._replace(**changes)


def test_the_head_starts_anew_for_other_classes() -> None:
    """Of another number, of other names where they are known, and where the file has none."""
    head = ("6.weight", "6.bias")
    without = {name: w for name, w in WEIGHTS.items() if name not in head}
    others = ["other", *CLASSES[1:]]
    for source, classes, anew in (
        (source_of(WEIGHTS), CLASSES, False),
        (source_of(WEIGHTS, classes=CLASSES), CLASSES, False),
        (source_of(WEIGHTS, classes=CLASSES), others, True),
        (source_of(WEIGHTS), CLASSES[:3], True),
        (source_of(without), CLASSES, True),
        (source_of({name: w for name, w in WEIGHTS.items() if name != "6.bias"}), CLASSES, True),
    ):
        model = net(len(classes), seed=1)
        before = {name: w.clone() for name, w in model.state_dict().items()}
        sentence = load_start(model, classes, source, "small")
        after = model.state_dict()
        assert equal({n: after[n] for n in without}, without)
        assert equal({n: after[n] for n in head}, {n: (before if anew else WEIGHTS)[n] for n in head})
        ends = f"; the head (6) starts anew for {len(classes)} classes" if anew else ", the head too"
        assert sentence == f"starting from the weights of w.pt{ends}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"0.0.weight": torch.zeros(4, 3, 5, 5)}, r"0\.0\.weight is \(4, 3, 5, 5\), not \(4, 3, 3, 3\)$"),
        # Views of a single number, as a file may hold them: no check computes 4 PB.
        ({"0.0.weight": torch.zeros(()).expand(10**9, 10**6)}, r"0\.0\.weight is \(1000000000, 1000000\), not .*$"),
        ({"0.1.running_mean": None, "0.0.weight": None}, r"0\.0\.weight is missing; 0\.1\.running_mean is missing$"),
        ({"fc.weight": torch.zeros(2)}, r"fc\.weight is unknown$"),
        ({"0.0.weight": torch.full((4, 3, 3, 3), torch.nan)}, r"0\.0\.weight is not finite$"),
        (dict.fromkeys([n for n in WEIGHTS if n.endswith("bias")]), r"; 2\.1\.bias is missing; .* and 1 more$"),
    ],
)
def test_weights_of_another_model_are_refused(change: dict[str, Tensor | None], says: str) -> None:
    weights = {name: w for name, w in (WEIGHTS | change).items() if w is not None}
    model, before = net(seed=1), net(seed=1).state_dict()
    with pytest.raises(UserError, match=r"^w\.pt: its weights are not those of --model small: .*" + says):
        load_start(model, CLASSES, source_of(weights), "small")
    with pytest.raises(UserError, match=r"^w\.pt: its weights are of --model resnet18, not of --model small: "):
        load_start(model, CLASSES, source_of(weights, model="resnet18"), "small")
    assert equal(model.state_dict(), before)


def test_what_a_state_may_lack_and_have_more() -> None:
    """Counts of batches, which an older torch did not store; and heads that are only trained on ImageNet."""
    weights = {name: w for name, w in WEIGHTS.items() if not name.endswith("num_batches_tracked")}
    model = net(seed=1)
    load_start(model, CLASSES, source_of(weights | {"AuxLogits.fc.weight": torch.zeros(9)}), "small")
    assert all(torch.equal(model.state_dict()[name], w) for name, w in weights.items())


def test_a_position_embedding_is_interpolated_to_the_image_size() -> None:
    sizes = {"patch_size": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 4, "mlp_dim": 4, "num_classes": 5}
    torch.manual_seed(0)
    small_one, large = (torchvision.models.VisionTransformer(image_size=s, **sizes) for s in (16, 24))
    load_start(large, CLASSES, source_of(small_one.state_dict()), "vit_b_16")
    old, new = small_one.encoder.pos_embedding.detach()[0], large.encoder.pos_embedding.detach()[0]
    torch.testing.assert_close(new[0], old[0])  # of the class token
    torch.testing.assert_close(new[[1, 3, 7, 9]], old[1:])  # the corners, as they align
    torch.testing.assert_close(large.conv_proj.weight, small_one.conv_proj.weight)

    broken = small_one.state_dict() | {"encoder.pos_embedding": torch.zeros(1, 4, 4)}  # three patches
    with pytest.raises(UserError, match=r"encoder\.pos_embedding is \(1, 4, 4\), not \(1, 10, 4\)"):
        load_start(large, CLASSES, source_of(broken), "vit_b_16")
