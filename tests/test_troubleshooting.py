"""docs/troubleshooting.md and docs/resuming.md quote what the code says, and name the options that it has."""

import ast
import re
from pathlib import Path

import pytest

from train.cli.commands import build_parser
from train.config.options import TASKS, of_name

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("troubleshooting", "resuming")}
QUOTES = re.findall(r"^> (.+)$", PAGES["troubleshooting"], flags=re.M)


def texts() -> list[str]:
    """All string literals of the packages, what is filled in as …."""
    found = []
    for path in (path for package in ("train", "pipelines", "dali_salaug") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [re.sub(r"…+", "…", text) for text in found]


TEXTS = texts()


@pytest.mark.parametrize("quote", QUOTES)
def test_the_code_says_what_is_quoted(quote: str) -> None:
    quote = re.sub(r"The last 50 steps", "The last … steps", quote)
    assert len(re.sub(r"\W", "", quote)) > 15, "says something"
    pattern = re.escape(quote).replace("…", ".*?")
    assert any(re.search(pattern, text, flags=re.S) for text in TEXTS), quote


def test_there_are_quotes() -> None:
    assert len(QUOTES) > 12


@pytest.mark.parametrize("page", PAGES)
def test_the_options_and_links_are_there(page: str) -> None:
    legal = {flag for action in build_parser(["train"])._actions for flag in action.option_strings}
    legal |= {f"--{name.replace('_', '-')}" for task, _ in TASKS.values() for name in of_name(task).options()}
    assert set(re.findall(r"`(--[a-z-]+)", PAGES[page])) <= legal
    for target in re.findall(r"\]\(([\w.]+)\)", PAGES[page]):
        assert (ROOT / "docs" / target).exists()


def test_the_options_that_may_change_are_listed() -> None:
    (listed,) = re.findall(r"These options may change: (.+?)\.\n", PAGES["resuming"], flags=re.S)
    free = {name.replace("_", "-"): None for task, _ in TASKS.values() for name in of_name(task).free()}
    assert re.findall(r"`--([a-z-]+)`", listed) == list(free)
