"""docs/methods.md and the README's list: what the code knows is generated, and the prose covers the rest."""

import importlib.util
import inspect
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import Tensor

from dali_salaug import KINDS, METHODS, Augmented, BoxDraw, Method, MethodEntry, SaliencyStage, register
from dali_salaug.compositing import replace_boxes
from pipelines import find_policy
from train.programs.train import methods_table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "methods.md").read_text()
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", PAGE, flags=re.S | re.M))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The program docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_up_to_date(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Or: python docs/generate.py."""
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 0, capsys.readouterr().out


def parameters_of(name: str) -> set[str]:
    """Those that the card has to explain: the method's; of a plain policy, the policy's."""
    entry = METHODS[name]
    of = type(find_policy(entry.policy)) if entry.method is Augmented and entry.policy else entry.method
    return set(inspect.signature(of).parameters)


def explained(text: str) -> set[str]:
    """The names at the beginning of the bullets."""
    return {
        name for line in re.findall(r"^- ((?:`\w+`(?:, )?)+):", text, flags=re.M) for name in re.findall(r"\w+", line)
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_card(name: str) -> None:
    card = SECTIONS[name]
    assert f"<!-- begin generated: card {name} -->" in card
    named, own = parameters_of(name), explained(card)
    assert own <= named, "explains what is no parameter"
    other = re.search(r"^Parameters: as for \[`(\w+)`\]\(#\1\)", card, flags=re.M)
    assert own | (explained(SECTIONS[other[1]]) if other else set()) >= named, "leaves parameters out"
    assert ("**Differs from the authors':**" in card) == bool(METHODS[name].source)

    picture = ROOT / "docs" / "methods" / f"{name}.png"
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.size[0] > image.size[1] > 100


def test_nothing_else_has_a_card_or_a_picture() -> None:
    cards = re.findall(r"^### (.+)$", PAGE, flags=re.M)
    by_kind = [name for kind in KINDS for name, entry in METHODS.items() if entry.kind == kind]
    assert cards == by_kind, "in the order of the list, by kind"
    assert {path.stem for path in (ROOT / "docs" / "methods").iterdir()} == set(METHODS)


def test_the_policy_in_the_page_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)[0])
    assert find_policy(tmp_path / "mine.yaml").stages == 2


def test_the_cost_in_the_text_is_the_measured_one() -> None:
    raw = ROOT / "benchmarks" / "results" / "2026-11-20-cpu" / "stage-resnet50.json"
    both = 100 * statistics.median(json.loads(raw.read_text())["shares"]["map, both"])
    assert re.search(r"With\s`--early-head\sauto`\sthe\smap\scosts\s(\S+) %", PAGE)[1] == f"{both:.1f}"  # type: ignore[index]


class Blank(Method[BoxDraw]):
    """The upper left corner is blanked."""

    uses_saliency = True

    def __init__(self, size: int | None = None, *, tau: float = 0.6) -> None:
        self.size, self.tau = size or 2, tau

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxDraw:
        return BoxDraw(torch.tensor([[0, 0, self.size, self.size]]).expand(len(images), 4))

    def apply(self, images: Tensor, drawn: BoxDraw, augmented: Tensor | None) -> Tensor:
        return replace_boxes(images, drawn.boxes, 0.0)


@pytest.fixture
def newcomer() -> Iterator[MethodEntry]:
    """A method that is registered, and mentioned nowhere."""
    entry = MethodEntry("blank", "one image", "a blank corner", "Doe 2026", "§1", target="max")
    register(entry)(Blank)
    yield entry
    del METHODS["blank"]


def test_every_list_and_table_has_a_registered_method(generate: ModuleType, newcomer: MethodEntry) -> None:
    row = re.search(r"^blank .*", methods_table(), flags=re.M)
    assert row is not None
    assert re.split(r"  +", row[0]) == ["blank", "one image", "gradient", "Doe 2026", "a blank corner"]
    parts = "<!-- begin generated: {} -->\n<!-- end generated -->\n"
    names = ("contents", "methods", "card blank", "costs")
    text = {name: generate.generated(parts.format(name)) for name in names}
    assert "[`blank`](docs/methods.md#blank)" in text["contents"]
    assert "| [`blank`](#blank) | a blank corner | gradient | Doe 2026 |" in text["methods"]
    assert "| `blank` | 15.8 | not measured | not measured |" in text["costs"]
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", text["card blank"], flags=re.M))
    assert rows == {
        "class": "`Blank(size=None, *, tau=0.6)`",
        "options": "`--region-size`, `--tau`",
        "saliency": "`gradient` (target `max`, scale 0.5)",
        "source": "Doe 2026, §1",
    }


def test_the_table_has_what_a_newer_report_measured(
    generate: ModuleType, newcomer: MethodEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each figure is that of the newest report that has it; an effect of one seed is none."""
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    generate.measured.cache_clear()

    def write(folder: str, share: float, top1: float, seeds: int) -> None:
        (tmp_path / folder).mkdir()
        shares = {"map, low resolution": [0.2, 0.25, 0.2], **({"blank": [share]} if share else {})}
        (tmp_path / folder / "stage-resnet50.json").write_text(json.dumps({"shares": shares}))
        difference = {"mean": top1, "interval": [top1 - 1, top1 + 1] if seeds > 1 else None}
        conditions = {
            "a": {"options": {"method": "cutout"}, "baseline": None, "difference": None},
            "b": {"options": {"method": "blank", "region_size": 16}, "baseline": "a", "difference": difference},
        }
        (tmp_path / folder / "results.json").write_text(json.dumps({"conditions": conditions}))

    write("2026-01-01-first", 0.05, 1.5, seeds=3)
    write("2026-01-02-next", 0.03, -2.25, seeds=3)
    write("2026-01-03-last", 0, 9.0, seeds=1)
    rows = "\n".join(generate.costs())
    generate.measured.cache_clear()
    assert "| `blank` | 20.0 | 3.00 | −2.25 [−3.25, −1.25] against `cutout` |" in rows
    assert "| `cutout` | none | not measured | not measured |" in rows


def test_a_card_has_what_is_measured_with_a_vision_transformer(
    generate: ModuleType, newcomer: MethodEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing until there are runs; of each data set the newest, and none of a convolutional network or of one seed."""

    def result(model: str, data: str, mean: float, plain: str | None, *, seeds: int = 3) -> dict[str, object]:
        difference = {"mean": mean, "interval": [mean - 1, mean + 1] if seeds > 1 else None, "pairs": seeds}
        top1 = {"minus_none": difference, "minus_plain": difference if plain else None}
        rows = {"blank": {"plain_form": plain, "metrics": {"top1": top1}}}
        return {"settings": {"model": model, "data": data}, "rows": rows}

    reports: list[dict[str, object]] = [{"experiment": "keepaugment", "conditions": {}}]
    monkeypatch.setattr(generate, "measured", lambda file: reports if file == "results.json" else [])
    assert "transformer" not in "\n".join(generate.card("blank"))
    newest = [result("vit_small", "a", 2.0, "none_of_it"), result("small", "a", 9.0, None)]
    older = [result("vit_small", "a", 5.0, None), result("vit_small", "b", -3.0, None)]
    one_seed = [result("vit_b_16", "c", 4.0, None, seeds=1)]
    reports += [{"experiment": "methods", "results": results} for results in (newest, older, one_seed)]
    row = re.search(r"^\| with a vision transformer \| (.*) \|$", "\n".join(generate.card("blank")), flags=re.M)
    assert row is not None
    assert set(row[1].split("; ")) == {
        "`vit_small`, a: +2.00 [+1.00, +3.00] points against `none_of_it`",
        "`vit_small`, b: −3.00 [−4.00, −2.00] points against `none`",
    }


def test_the_stage_takes_a_registered_method(newcomer: MethodEntry) -> None:
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    images, labels = torch.ones(2, 3, 8, 8), torch.tensor([0, 1])
    trace = SaliencyStage(METHODS["blank"].build(5, region_size=3)).trace(net, images, labels)
    assert (trace.inputs == 0).sum() == 2 * 3 * 9
    assert trace.saliency is not None


def test_a_name_is_registered_once(newcomer: MethodEntry) -> None:
    with pytest.raises(ValueError, match="name must be new; 'blank' is Blank"):
        register(MethodEntry("blank", "one image", "", ""))(Blank)
    assert METHODS["blank"] is newcomer


def test_the_prices_of_a_map_are_those_of_the_runs(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(top1: float, *rows: tuple[str, int, int, float]) -> dict[str, object]:
        shares = [
            {"map": kind, "epoch": epoch, "age": age, "cut": cut, "paste": cut / 2, "cut_box": None, "paste_box": None}
            for kind, epoch, age, cut in rows
        ]
        return {"top1": top1, "seconds": 1.0, "seconds_per_epoch": 1.0, "prices": shares or None}

    kept = [
        ("full", 2, 0, 1.0),
        ("scaled", 1, 0, 0.9),
        ("remembered", 1, 0, 0.5),
        ("scaled", 2, 0, 0.8),
        ("remembered", 2, 1, 0.6),
    ]
    conditions = {
        "cutout": {"runs": {"0": run(70.0), "1": run(71.0)}},
        "keep_cutout-half": {"runs": {"0": run(71.0), "1": run(72.0)}},
        "keep_cutout-memory": {"runs": {"0": run(71.5, *kept, ("remembered", 2, 0, 0.7))}},
    }
    monkeypatch.setattr(generate, "measured", lambda file: [{"conditions": conditions}] if file == "x.json" else [])
    lines = list(generate.prices("x"))
    assert lines[0].startswith("5 of ")
    rows = [line.split(" | ") for line in lines[2:]]
    half, remembered = rows[3], rows[5]
    assert half[1:] == [
        "live, half resolution", "2", "+1.00 [+1.00, +1.00]", "+0.50", "80.0; 40.0", "no boxes |"
    ]  # fmt: skip
    assert remembered[1:] == ["remembered", "1", "+1.50", "", "70.0; 35.0", "no boxes |"]
    assert rows[2][2:] == ["0", "not measured", "not measured", "100.0; 50.0", "no boxes |"]
    assert next(iter(generate.course("x"))) == "Mean over 1 seed."
    assert "| 2 | 80.0 | 40.0 | 70.0 | 35.0 |" in "\n".join(generate.course("x"))
    assert list(generate.course("y")) == ["Not measured yet."]
