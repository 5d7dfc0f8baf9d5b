"""The wheel: nothing but the three packages, whole, and it runs where there is no repository."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dali_salaug
from train.cli.presets import PRESETS
from train.data.shapes import write_shapes

ROOT = Path(__file__).parent.parent
PACKAGES = ("dali_salaug", "pipelines", "train")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves build/ behind, whose files go into the next wheel, deleted or not."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))  # to be left out
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def test_it_has_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"dali_salaug-{dali_salaug.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {f"train/cli/presets/{name}.yaml" for name in PRESETS} <= expected
    assert files == expected


def test_it_has_license_command_and_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert commands.split() == ["[console_scripts]", "dali-salaug", "=", "train.__main__:main"]
    # The table of the page lists the same extras.
    listed = re.findall(r"^\| `(\w+)` \| ", (ROOT / "docs" / "start.md").read_text(), flags=re.M)
    assert sorted(metadata.get_all("Provides-Extra")) == sorted(listed)


def test_it_trains_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    installed, data, elsewhere = (tmp_path / name for name in ("installed", "data", "elsewhere"))
    pip("install", "--no-deps", "--no-index", "--target", str(installed), str(wheel))
    write_shapes(data, train_per_class=2, val_per_class=1)
    elsewhere.mkdir()

    def run(*arguments: str) -> str:
        paths = os.pathsep.join((str(installed), os.environ.get("PYTHONPATH", "")))  # others may lie there
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    where = run("-c", f"from importlib.util import find_spec; [print(find_spec(name).origin) for name in {PACKAGES}]")
    assert all(Path(line).is_relative_to(installed) for line in where.splitlines())
    listed = run("-m", "train", "--list-methods")
    assert "keep_randaugment" in listed
    assert run(str(installed / "bin" / "dali-salaug"), "--list-methods") == listed
    # The preset is a file of the package; the command line wins.
    small = ["--model=small", "--image-size=32", "--region-size=8", "--batch-size=8", "--epochs=1", "--warmup-epochs=0"]
    run("-m", "train", "--preset=keepaugment-cifar", f"--data={data}", "--out=run", *small)
    assert (elsewhere / "run" / "best.pt").is_file()
    assert "method: keep_cutout" in (elsewhere / "run" / "config.yaml").read_text()
