"""docs/methods.md says of every method what the code says: its class, parameters, defaults, options, map and source."""

import inspect
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from train.engine.methods import KINDS, METHODS

from dali_salaug import Augmented
from pipelines import find_policy
from train.config import Config

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "methods.md").read_text()
README = (ROOT / "README.md").read_text()
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", PAGE, flags=re.S | re.M))
OPTIONS = (
    "region_size",
    "tau",
    "policy",
    "interpolation",
    "saliency",
    "saliency_target",
    "saliency_scale",
    "early_head",
    "warmup_epochs",
)


def default_text(value: Any) -> str:
    """repr, with no more digits than one reads."""
    if isinstance(value, tuple):
        return f"({', '.join(map(default_text, value))})"
    return str(round(value, 4)) if isinstance(value, float) else repr(value)


def signature(cls: type) -> str:
    """The class with its parameters and their defaults, as one writes the call."""
    parts = []
    parameters = list(inspect.signature(cls).parameters.values())
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and (place == 0 or parameters[place - 1].kind != parameter.kind):
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f"={default_text(parameter.default)}"
        parts.append(parameter.name + default)
    return f"{cls.__name__}({', '.join(parts)})"


def facts(name: str) -> dict[str, str]:
    """The rows of a method's card; of the source its beginning."""
    entry = METHODS[name]

    def built(**options: Any) -> str:
        return repr(entry.build(Config(image_size=64, **options), 10))

    method = entry.build(Config(image_size=64), 10)
    options = [
        f"`--{key.replace('_', '-')}`"
        for key, value in {"region_size": 7, "tau": 0.3}.items()
        if built(**{key: value}) != built()
    ]
    maps = [f"`{entry.saliency}` (of the `{entry.target}`, side {entry.scale:g})"] * method.uses_saliency
    maps += [f"`{entry.own_map}` of the partner, by the method itself"] * bool(entry.own_map)
    rows = {"class": f"`{signature(type(method))}`"}
    if entry.policy:
        rows["policy"] = f"`{signature(type(find_policy(entry.policy)))}`"
        options += ["`--policy`", "`--interpolation`"]
    warm_up = {0: "", 1: "1 epoch of clean images"}[method.default_warmup_epochs]
    rows |= {"options": ", ".join(options), "map": "; ".join(maps), "warm-up": warm_up, "source": entry.source}
    return {key: text for key, text in rows.items() if text}


def parameters_of(name: str) -> set[str]:
    """Those that the card has to explain: the method's; of a plain policy, the policy's."""
    entry = METHODS[name]
    method = entry.build(Config(image_size=64), 10)
    of = find_policy(entry.policy) if isinstance(method, Augmented) and entry.policy else method
    return set(inspect.signature(type(of)).parameters)


def explained(text: str) -> set[str]:
    """The names at the beginning of the bullets."""
    return {
        name for line in re.findall(r"^- ((?:`\w+`(?:, )?)+):", text, flags=re.M) for name in re.findall(r"\w+", line)
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_card(name: str) -> None:
    card = SECTIONS[name]
    rows = dict(re.findall(r"^\| ([a-z][\w-]*) \| (.+) \|$", card, flags=re.M))
    expected = facts(name)
    assert list(rows) == list(expected)
    assert rows.pop("source", "").startswith(expected.pop("source", ""))
    assert rows == expected

    named, own = parameters_of(name), explained(card)
    assert own <= named, "explains what is no parameter"
    other = re.search(r"^Parameters: as for \[`(\w+)`\]\(#\1\)", card, flags=re.M)
    assert own | (explained(SECTIONS[other[1]]) if other else set()) >= named, "leaves parameters out"

    (picture,) = re.findall(r"!\[\w+\]\((.+?)\)", card)
    assert picture == f"methods/{name}.png"
    assert (ROOT / "docs" / picture).stat().st_size < 150_000
    with Image.open(ROOT / "docs" / picture) as image:
        assert image.size[0] > image.size[1] > 100


def test_nothing_else_has_a_card_or_a_picture() -> None:
    cards = re.findall(r"^### (.+)$", PAGE, flags=re.M)
    by_kind = [name for kind in KINDS for name, entry in METHODS.items() if entry.kind == kind]
    assert cards == by_kind, "in the order of the list, by kind"
    assert {path.stem for path in (ROOT / "docs" / "methods").iterdir()} == set(METHODS)


def test_the_options_that_the_cards_speak_of_have_their_rows() -> None:
    assert re.findall(r"^\| `--(.+?)` \|", PAGE, flags=re.M) == [name.replace("_", "-") for name in OPTIONS]


def test_every_method_is_linked_from_both_pages() -> None:
    for name in METHODS:
        assert f"[`{name}`](#{name})" in PAGE, "the table of contents"
        assert f"[`{name}`](docs/methods.md#{name})" in README, "the table of --method"


def test_the_policy_in_the_page_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)[0])
    assert find_policy(tmp_path / "mine.yaml").stages == 2


def test_the_table_of_costs_and_effects_has_the_measured_figures() -> None:
    results = ROOT / "benchmarks" / "results"
    shares = json.loads((results / "2026-11-20-cpu" / "stage-resnet50.json").read_text())["shares"]
    cost = {name: 100 * statistics.median(values) for name, values in shares.items()}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in SECTIONS["Cost and effect"].splitlines()]
    table = {row[0].strip("`"): row[1:] for row in rows if row and row[0].startswith("`")}
    assert set(table) == set(METHODS)
    for name, (own_map, after, _) in table.items():
        plain = "keep_randaugment" if METHODS[name].kind == "policy" and name.startswith("keep_") else name
        assert after == (f"{cost[plain]:.2f}" if plain in cost else "0, the policy is in the loader")
        if METHODS[name].build(Config(), 10).uses_saliency:
            part = {"gradient": "map, low resolution", "grad_cam": "map, Grad-CAM"}[METHODS[name].saliency]
            assert own_map.startswith(f"{cost[part]:.1f}")
    for experiment, of in (
        ("salfmix", {name: name for name in METHODS}),
        ("keepaugment", {"keep_cutout-low-16": "keep_cutout", "keep_randaugment-low-16": "keep_randaugment"}),
    ):
        result = json.loads((results / f"2026-11-20-{experiment}" / "results.json").read_text())
        for condition, name in of.items():
            difference = result["conditions"].get(condition, {}).get("difference")
            if difference is not None:
                low, high = difference["interval"]
                figures = f"{difference['mean']:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
                assert table[name][2].startswith(figures)
