"""The Dockerfile runs the README's commands, without privileges, on the whole source. It is not built here."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and their arguments, without comments."""
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, after those of the stage from which it starts."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, arguments in instructions((ROOT / "Dockerfile").read_text()):
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            found[name] = list(found.get(base, [("FROM", base)]))
        elif name in found:
            found[name].append((instruction, arguments))
    return found


def test_the_stages_run_the_readmes_commands() -> None:
    commands = re.findall(r"^pip install -e .*$", (ROOT / "README.md").read_text(), flags=re.M)
    assert len(commands) == 2
    for stage, command in zip(("train", "test"), commands, strict=True):
        *_, installed = (arguments for instruction, arguments in stages()[stage] if instruction == "RUN")
        *_, started = (arguments for instruction, arguments in stages()[stage] if instruction == "CMD")
        assert f"{installed} && {' '.join(json.loads(started))}" == command
    assert stages()[""] == stages()["train"], "what a build without --target makes"


def test_they_run_without_privileges_on_the_whole_source() -> None:
    for stage in stages().values():
        names = [instruction for instruction, _ in stage]
        assert stage[0] == ("FROM", "${BASE}")
        user = dict(stage)["USER"]
        assert user not in ("root", "0")
        assert ("COPY", f"--chown={user} . .") in stage
        assert names.index("USER") < names.index("WORKDIR") < names.index("COPY")
        assert all("pip" not in arguments for _, arguments in stage[: names.index("USER")])


def test_nothing_that_is_installed_is_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "runs", "**/__pycache__"} <= set(ignored)
    needed = [
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "dali_salaug",
        "pipelines",
        "train",
        "tests",
        "docs",
        "examples",
    ]
    needed += ["benchmarks", ".ci", "CONTRIBUTING.md", "CHANGELOG.md", "Dockerfile"]  # which tests read
    assert not set(needed) & set(ignored)
