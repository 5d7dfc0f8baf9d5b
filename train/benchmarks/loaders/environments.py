"""A virtual environment for each peer, made once."""

import hashlib
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.cache import cache_folder

MADE = "installed.txt"  # written last: a folder without it was not finished


class NotInstalled(Exception):
    """pip could not install a peer; the message is its last line."""


def run_pip(python: str, requirements: Sequence[str], log: Path) -> tuple[int, str]:
    """Install into the environment of `python`. Returns pip's exit status and the last line that says something."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary", *requirements]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    log.write_text(done.stdout)
    errors = [line for line in done.stdout.splitlines() if line.lower().lstrip().startswith("error:")]
    lines = errors or [line for line in done.stdout.splitlines() if line.strip()]
    return done.returncode, lines[-1].strip() if lines else f"pip: exit status {done.returncode}"


def interpreter(
    name: str,
    requirements: Sequence[str],
    pip: Callable[[str, Sequence[str], Path], tuple[int, str]] = run_pip,
) -> str:
    """Return the Python of a peer's environment, which is made if there is none yet for these requirements.

    It is a virtual environment in the cache folder, named by the requirements and by this interpreter. Its search path
    ends with that of this interpreter, whose torch and torchvision it shares, and which pip counts as installed. An
    environment that pip could not fill is removed, and tried again in the next run.

    Args:
        pip: installs; returns the exit status and a last line.

    Raises:
        NotInstalled: pip failed.
    """
    if not requirements:
        return sys.executable
    key = hashlib.sha256("\n".join([sys.executable, sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = cache_folder() / "peers" / f"{name}-{key}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if (folder / MADE).exists() and python.exists():
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotInstalled(f"venv: {(made.stdout.strip().splitlines() or ['failed'])[-1]}")
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    shared = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    # Paths of .pth files follow the folder in which they stand: what pip installs here comes first.
    Path(own, "zz_shared.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(shared)))
    log = folder.parent / f"{name}.log"
    status, line = pip(str(python), requirements, log)
    if status:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotInstalled(line)
    (folder / MADE).write_text("\n".join(requirements) + "\n")
    return str(python)
