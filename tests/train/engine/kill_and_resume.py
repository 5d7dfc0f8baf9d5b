"""python kill_and_resume.py PLAN OUTPUT ARGUMENTS: python -m train, killed as PLAN says, and resumed.

Everything is imported once; each start of the program is a fork in which DALI has not run yet. PLAN is a JSON list with
an entry for each kill: a number, the seconds from the start to a SIGKILL; {"progress": seconds}, the same from the
first checkpoint after the start; or {"write": n, "at": point}, the process kills itself (SIGKILL too) in the n-th
writing of a checkpoint after the start, at a point of `POINTS`. After the last kill the run may finish.

Prints a JSON line for each start: how it ended, and what the killed process left unfinished. The program's own output
goes to the file OUTPUT.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import nvidia.dali.auto_aug.augmentations  # noqa: F401 (imported before the forks, as is what follows)
import torch
import torchvision  # noqa: F401
from torch.utils import tensorboard  # noqa: F401

from train.__main__ import main
from train.engine import checkpoint
from train.programs import train as program  # noqa: F401

POINTS = ("started", "half", "written", "flushed", "renamed")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(nth: int, point: str) -> None:
    """Let this process die in the n-th `checkpoint.save` from now on."""
    real_save, real_fsync, real_replace, saved = checkpoint.save, os.fsync, os.replace, 0

    def save(state: dict[str, Any], path: Path) -> None:
        nonlocal saved
        saved += 1
        if saved == nth:
            torch_save, flushed = torch.save, 0

            def dying_save(state: Any, file: Any) -> None:
                whole = path.stat().st_size if path.exists() else 100_000
                file.write(b"") if point == "started" else torch_save(state, file)
                file.flush()
                if point in ("started", "half"):
                    os.ftruncate(file.fileno(), 0 if point == "started" else whole // 2)
                    die()
                if point == "written":
                    die()

            def fsync(handle: int) -> None:
                nonlocal flushed
                flushed += 1
                real_fsync(handle)
                if point == "flushed":
                    die()

            def replace(*paths: Any) -> None:
                real_replace(*paths)
                die()

            torch.save, os.fsync = dying_save, fsync
            if point == "renamed":
                os.replace = replace
        real_save(state, path)

    checkpoint.save = save


def start(arguments: list[str], output: Path, planned: Any) -> int:
    child = os.fork()
    if child:
        return child
    handle = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    status = 70
    try:
        torch.set_num_threads(1)
        if isinstance(planned, dict) and "write" in planned:
            arm(planned["write"], planned["at"])
        status = main(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def stamp(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def wait(child: int, planned: Any, last: Path) -> int:
    """Return the child's wait status, after killing it where the plan says so."""
    if isinstance(planned, float | int):
        time.sleep(planned)
        os.kill(child, signal.SIGKILL)
    elif planned and "progress" in planned:
        before, ended = stamp(last), False
        while stamp(last) == before and not ended:
            ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            time.sleep(0.001)
        time.sleep(planned["progress"])
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def run_all(plan: list[Any], output: Path, arguments: list[str]) -> None:
    folder = Path(arguments[arguments.index("--out") + 1])
    for planned in [*plan, None]:
        resuming = (folder / "last.pt").exists()
        started = time.perf_counter()
        child = start(["--resume", "--out", str(folder)] if resuming else arguments, output, planned)
        status = wait(child, planned, folder / "last.pt")
        seconds = time.perf_counter() - started
        ended = "killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        left = [path.name for path in folder.glob(".*")]
        print(json.dumps({"planned": planned, "ended": ended, "seconds": seconds, "left": left}), flush=True)


if __name__ == "__main__":
    run_all(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
