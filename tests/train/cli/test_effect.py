"""An option that the method does not have is refused: the table of all methods, by what the methods themselves do."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_salaug import METHODS, Clean, Draw
from train.__main__ import main as program
from train.cli.checks import check, check_effect
from train.config import Config
from train.errors import UserError

VALUES: dict[str, Any] = {
    "policy": "randaugment", "interpolation": "linear", "tau": 0.7, "region_size": 9, "saliency": "guided",
    "saliency_scale": 1.0, "saliency_target": "max", "warmup_epochs": 2,
}  # fmt: skip


def tensors(drawn: Draw) -> list[torch.Tensor]:
    parts = vars(drawn).values()
    return [tensor for part in parts for tensor in (tensors(part) if isinstance(part, Draw) else [part])]


def has(option: str, name: str) -> bool:
    """Whether a method has the option: by its constructor, and by whether other maps make other draws."""
    entry = METHODS[name]
    parameters = inspect.signature(entry.method).parameters
    if option in ("policy", "interpolation"):
        return "augment" in name or "augmix" in name
    if option in ("tau", "region_size"):
        return {"tau": "tau", "region_size": "size"}[option] in parameters
    if option == "warmup_epochs":
        return entry.method is not Clean
    images, maps = torch.zeros(16, 3, 32, 32), torch.rand(2, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    first, second = (
        entry.build(5).draw(images, each, torch.Generator().manual_seed(0)) for each in (maps[0] ** 4, maps[1] ** 4)
    )
    return any(not torch.equal(tensor, other) for tensor, other in zip(tensors(first), tensors(second), strict=True))


@pytest.mark.parametrize("option", VALUES)
def test_the_table(option: str) -> None:
    seen = set()
    for name in METHODS:
        values = {"method": name, option: VALUES[option]}
        seen.add(has(option, name))
        if has(option, name):
            check(Config(**values))
            check_effect(values, Config(**values))
        else:
            with pytest.raises(UserError) as error:
                check_effect(values, Config(**values))
            message, flag = str(error.value), "--" + option.replace("_", "-")
            assert message.startswith(f"{flag} has no effect with --method {name}: it is for methods ")
            assert message.split(", ")[1:] == [other for other in METHODS if has(option, other)]
    assert seen == {True, False}


def test_what_is_not_stated_is_no_mistake() -> None:
    """The configuration of a run has all options."""
    for name in METHODS:
        check_effect({"method", "model"}, Config(method=name, **(VALUES | {"policy": None})))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "keep_cutout", "saliency": "fine_grained", "saliency_target": "max"}, "--saliency-target has no"),
        ({"method": "cutout", "early_head": "auto", "early_weight": 0.0}, "--early-head has no effect"),
        ({"method": "keep_cutout", "memory_grid": 7}, "--memory-grid has no effect without --saliency memory"),
        ({"method": "none", "cuda_graph": True}, "--cuda-graph has no effect with --method none, which does not"),
        ({"method": "keep_cutout", "memory_max_age": 2}, "--memory-max-age has no effect without --saliency memory"),
    ],
)
def test_options_that_need_others(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_effect(values, Config(**values))


def test_an_early_head_alone_is_trained() -> None:
    values = {"method": "cutout", "early_head": "auto"}
    check_effect(values, Config(**values))


def test_what_is_off_has_no_effect_anyway() -> None:
    values = {"method": "none", "cuda_graph": False}
    check_effect(values, Config(**values))


@pytest.mark.parametrize("command", [[], ["benchmark", "step"]])
def test_the_program_refuses_it(command: list[str], shapes: Path, capsys: pytest.CaptureFixture) -> None:
    assert program([*command, "--data", str(shapes), "--method", "mixup", "--tau", "0.5"]) == 2
    assert "error: --tau has no effect with --method mixup" in capsys.readouterr().err


def test_a_preset_may_have_it(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text("tau: 0.7\nregion_size: 9\nmethod: cutout\n")
    options = ["--preset", str(tmp_path / "mine.yaml"), "--method", "mixup", "--data", str(tmp_path / "nowhere")]
    assert program(options) == 2
    assert "no folder" in capsys.readouterr().err
