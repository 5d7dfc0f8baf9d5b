"""Every page says what the code says: its Python is run, its commands are understood, what it names is there.

Of all pages alike: the README, docs/ and CONTRIBUTING.md. Links are checked where the site is built.
"""

import argparse
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from torch.distributed.run import get_args_parser as torchrun_parser
from torchvision.models.resnet import BasicBlock, ResNet

import dali_salaug
import pipelines
from train.cli.checks import check, check_effect
from train.cli.commands import COMMANDS, build_parser
from train.cli.parser import stated
from train.cli.presets import PRESETS
from train.config import Config
from train.config.options import TASKS, of_name
from train.data.shapes import SHAPES, write_shapes
from train.programs.train import stated_options

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))  # not the measurements: they speak of the code of their day
LANGUAGES = {"python", "sh", "text", "yaml", "json"}  # the others are the site's directives
NOT_RUN = re.compile(r"<!-- not run: .{10,} -->")

# What a block may use without having made it, in a test that runs it.
GIVEN = """
import torch
import torch.nn.functional as F
from torch import nn
model: nn.Module
optimizer: torch.optim.Optimizer
generator: torch.Generator
device: torch.device
num_classes: int
epochs: int
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int  # of the fence, from 1
    language: str
    code: str
    run: bool  # False where a comment before it says why not

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@functools.cache
def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, those in lists too."""
    blocks, before = [], ""
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "fence":
            assert token.map is not None
            run = not NOT_RUN.fullmatch(before.strip())
            blocks.append(Block(page, token.map[0] + 1, token.info, token.content, run))
        before = token.content if token.type == "html_block" else ""
    return blocks


@functools.cache
def inline_code(page: Path) -> list[str]:
    """What stands in backticks in the text of a page."""
    inlines = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    return [child.content for token in inlines for child in token.children or () if child.type == "code_inline"]


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_blocks_have_a_language() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language in LANGUAGES or block.language.startswith("{"), str(block)


def with_python() -> list[Path]:
    return [page for page in PAGES if any(block.language == "python" and block.run for block in blocks_of(page))]


@pytest.mark.parametrize("page", with_python(), ids=name_of)
def test_python_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The blocks of a page one after the other, on a small data set and small batches, in a folder of their own."""
    write_shapes(tmp_path / "data", train_per_class=2, val_per_class=1)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside others, threads that spin while they wait for one another take six times as long
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    registered = dict(dali_salaug.METHODS)  # a page may register one more
    request.addfinalizer(lambda: (dali_salaug.METHODS.clear(), dali_salaug.METHODS.update(registered)))
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=len(SHAPES))
    names: dict[str, Any] = {"__name__": page.stem}
    exec(GIVEN, names)
    names |= {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "epochs": 1,
        "generator": torch.Generator().manual_seed(0), "device": torch.device("cpu"), "num_classes": len(SHAPES),
    }  # fmt: skip
    for block in blocks_of(page):
        if block.language != "python" or not block.run:
            continue
        before = [p.detach().clone() for p in model.parameters()]
        code = block.code.replace("/data/imagenet", str(tmp_path / "data"))
        code = code.replace("batch_size=256", "batch_size=8, image_size=32")
        exec(compile("\n" * block.line + code, page, "exec"), names)
        if "optimizer.step()" in code:
            after = names["model"].parameters()
            assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True)), f"{block} trains nothing"


def test_python_that_is_not_run_is_well_typed(tmp_path: Path) -> None:
    """Names, arguments and attributes, by mypy, against the packages' own annotations."""
    from mypy import api

    files = {}
    for page in PAGES:
        code = [b.code for b in blocks_of(page) if b.language == "python" and not b.run]
        if code:
            file = tmp_path / f"{re.sub(r'[^a-z]', '_', name_of(page).lower())}.py"
            # In the file, for other options of all modules would not use what mypy has kept of the project's own check.
            file.write_text("# mypy: allow-untyped-defs, allow-redefinition\n" + GIVEN + "\n".join(code))
            files[file] = page
    if files:
        options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        report, errors, status = api.run([*options, *map(str, files)])
        assert status == 0, report + errors


# The programs outside of the project that pages may call; their words are not looked into.
OTHERS = {
    "cd", "docker", "export", "git", "mkdir", "mv", "mypy", "nvidia-smi", "pre-commit", "ruff", "sed", ".ci/run",
}  # fmt: skip
PROGRAM = build_parser()


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every command of the pages, in blocks and in the text, as words."""
    for block in blocks("sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            for words in split_at_operators(shlex.split(line, comments=True)):
                yield block.page, words
    for page in PAGES:
        for text in inline_code(page):
            # One without options may be no more than the name.
            if text.startswith(("python -m ", "dali-salaug ")) and "--" in text:
                yield page, shlex.split(text)


def split_at_operators(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";"):
            if command:
                yield command
            command = []
        elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
            command.append(word)


def check_command(words: list[str]) -> None:
    """Raise where the program would not understand its words. Words in capitals stand for the user's own."""
    program, *words = words
    if program in OTHERS:
        return
    if program == "pip":
        table = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", PYPROJECT, flags=re.S | re.M)
        assert table is not None
        extras = re.findall(r"^(\w+) = \[", table[1], flags=re.M)
        for word in words:
            for extra in re.findall(r"\[(.+)\]", word):
                assert set(extra.split(",")) <= set(extras), f"no such extra: {extra}"
        return
    if program == "torchrun":
        options = torchrun_parser().parse_args(words)
        assert options.module, "torchrun without -m"
        words = ["-m", options.training_script, *options.training_script_args]
    elif program == "dali-salaug":
        words = ["-m", "train", *words]
    else:
        assert program == "python", f"{program}: no program that the pages' test knows"
    if words[0].endswith(".py"):  # one of the examples
        script = (ROOT / words[0]).read_text()
        assert all(f'"{word}"' in script for word in words if word.startswith("--")), "no such option"
        return
    assert words[0] == "-m", "python without -m and a script"
    module, *words = words[1:]
    if module == "pytest":
        for word in words:
            assert not word.startswith("tests") or (ROOT / word.split("::")[0]).exists(), f"no such test: {word}"
    elif module == "sphinx":
        parser = pytest.importorskip("sphinx.cmd.build").get_parser()
        parser.parse_args(words)
    elif module == "train":
        check_program(words)
    else:
        assert module in ("pip", "venv", "build", "tensorboard.main"), f"{module}: no module that the pages' test knows"


def check_program(words: list[str]) -> None:
    """Raise where our own program would not understand its words."""
    if words[-1:] == ["--help"]:
        assert set(words[:1]) <= {"--help", *COMMANDS}, f"no such command: {words[0]}"
        return
    options = PROGRAM.parse_args(["none" if word == "NAME" else word for word in words])  # a method, where one is named
    assert options.command in (None, *words[:1]), f"{options.command} does not come first"
    if options.command in (None, "train") and not options.list_methods:
        chosen = stated_options(options)
        if "NAME" not in words and not any(word.endswith(".yaml") for word in words):
            check(Config(**chosen))
            check_effect(stated(options, Config.options()), Config(**chosen))


@pytest.mark.parametrize("page", [page for page in PAGES if any(p == page for p, _ in commands())], ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    for at, words in commands():
        if at == page:
            try:
                check_command(words)
            except SystemExit:
                pytest.fail(f"{shlex.join(words)}: not understood")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    own = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            own |= {option for command in action.choices.values() for option in options_of(command)}
    return own


def test_named_options_modules_files_and_attributes_are_there() -> None:
    options = options_of(PROGRAM) | options_of(torchrun_parser())
    public = {name: getattr(package, name) for package in (dali_salaug, pipelines) for name in package.__all__}
    missing = []
    for page in PAGES:
        for text in inline_code(page):
            if match := re.match(r"(--[a-z][a-z0-9-]+)", text):
                there = match[1] in options
            elif re.fullmatch(r"(dali_salaug|pipelines|train|tests|docs|benchmarks|examples)/[\w./-]*", text):
                there = (ROOT / text).exists()
            elif text in ("train.txt", "val.txt", "train.py"):
                continue  # files of the user's
            elif match := re.fullmatch(r"((?:dali_salaug|pipelines|train)(?:\.[a-z_]\w*)+)(?:\.([A-Z]\w*))?", text):
                there = is_importable(match[1], match[2])
            elif (match := re.match(r"([A-Za-z]\w+)\.([a-z_]\w*)\b", text)) and match[1] in public:
                there = has_attribute(public[match[1]], match[2])
            else:
                continue
            if not there:
                missing.append(f"{name_of(page)}: {text}")
    assert not missing


def is_importable(dotted: str, name: str | None) -> bool:
    """A module, or what is in one."""
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError:
        parent, _, last = dotted.rpartition(".")
        return bool(parent) and hasattr(importlib.import_module(parent), last)
    return name is None or hasattr(module, name)


def has_attribute(of: Any, name: str) -> bool:
    """Of a class, a field, or one that its documentation lists too."""
    return hasattr(of, name) or name in getattr(of, "__annotations__", {}) or f"{name}: " in (of.__doc__ or "")


def test_tables_of_options_are_the_programs() -> None:
    configs = [of_name(of) for of, _ in reversed(TASKS.values())]  # where names coincide, training's
    fields = {name.replace("_", "-"): each for of in configs for name, each in of.options().items()}
    for page in PAGES:
        for table in re.findall(r"^\| option \| default \| what it is \|\n\|.*\n((?:\|.*\n)+)", page.read_text(), re.M):
            for name, default, text in re.findall(r"^\| `--(.+?)` \| (.+?) \| (.+) \|$", table, re.M):
                expected = fields[name].metadata
                assert (default, text) == (str(expected["by_data"] or fields[name].default), expected["text"]), name


def test_every_program_and_public_name_is_in_the_reference() -> None:
    api = ROOT / "docs" / "api"
    helps = re.findall(r"^```\{help-of\} ?([\w-]*)$", (api / "commands.md").read_text(), flags=re.M)
    assert helps == ["", *(name for name in COMMANDS if name != "train")], "that of train is the program's own"
    for package in (dali_salaug, pipelines):
        text = (api / f"{package.__name__}.rst").read_text()
        listed = set(re.findall(rf"^\.\. (?:auto\w+|py:data):: {package.__name__}\.(\w+)", text, flags=re.M))
        kinds = re.findall(r"^\.\. methods-of:: (.+)$", text, flags=re.M)
        modules = {entry.method.__module__ for entry in dali_salaug.METHODS.values() if entry.kind in kinds}
        listed |= {name for name in package.__all__ if getattr(getattr(package, name), "__module__", "") in modules}
        assert sorted(listed & set(package.__all__)) == sorted(package.__all__)


def test_the_loop_of_the_readme_is_under_fifteen_lines() -> None:
    loop = next(block for block in blocks_of(ROOT / "README.md") if block.language == "python")
    assert len([line for line in loop.code.splitlines() if line.strip()]) < 15


def test_the_presets_of_the_loss_have_their_rows() -> None:
    presets = set(re.findall(r"`(consistency-\w+)`", (ROOT / "docs" / "consistency.md").read_text()))
    assert presets == {name for name in PRESETS if name.startswith("consistency-")}


def test_a_commit_is_checked_as_ci_does() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lines = [line.split(" > ")[0] for line in (ROOT / ".ci" / "run").read_text().splitlines()]  # wherever it is written
    entries = [hook["entry"] for hook in hooks]
    assert [entry for entry in entries if "pytest" not in entry and entry not in lines] == []
    checks = [line for line in lines if line.split(" ")[0] in ("ruff", "mypy") or "-m sphinx" in line]
    assert set(checks) < set(entries)
