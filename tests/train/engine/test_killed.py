"""A run killed with SIGKILL, 20 times and while it writes checkpoints too, ends as an undisturbed run."""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

from train.engine import checkpoint
from train.tasks.reid.figures import write_figures

SCRIPT = Path(__file__).with_name("kill_and_resume.py")
POINTS = ("started", "half", "written", "flushed", "renamed")
# 24 steps an epoch, 120 in all, and a checkpoint after each.
OPTIONS = "--image-size 16 --batch-size 2 --epochs 5 --region-size 6 --method keep_cutout --ema 0.9 --device cpu"
OPTIONS += " --checkpoint-every 1 --saliency memory"
# 8 steps an epoch, 24 in all, likewise. An order of the 20 labelled images ends within an epoch.
SEMI = "semi --labels 20 --unlabelled-ratio 3 --image-size 16 --batch-size 2 --epochs 3 --region-size 6 --ema 0.9"
SEMI += " --training-signal-annealing linear --confidence 0.1 --device cpu --checkpoint-every 1"
# 5 steps an epoch, 10 in all, likewise. A pass over the 14 images ends within an epoch.
DETECT = "detect --short-sides 40 48 --long-side 64 --pyramid-channels 8 --proposals 8 --batch-size 2 --epochs 2"
DETECT += " --iterations 10 --ema 0.9 --device cpu --checkpoint-every 1"

# 4 steps an epoch, likewise.
REID = "reid --batch-identities 3 --batch-images 2 --image-size 16 8 --epochs 2 --center-weight 0.01 --device cpu"
REID += " --checkpoint-every 1 --lr-warmup-epochs 1 --saliency memory"


def execute(python: str, plan: list[Any], data: Path, folder: Path, options: str = OPTIONS) -> list[dict[str, Any]]:
    """Return what `kill_and_resume.py` prints of each start."""
    arguments = [*options.split(), "--data", str(data), "--out", str(folder)]
    done = subprocess.run(
        [python, str(SCRIPT), json.dumps(plan), str(folder.with_suffix(".txt")), *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    starts = [json.loads(line) for line in done.stdout.splitlines()]
    assert starts[-1]["ended"] == 0, folder.with_suffix(".txt").read_text()
    return starts


def test_killed_twenty_times(warm_python: str, shapes: Path, tmp_path: Path, same: Any, log_of: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed of the moments: {seed}")  # shown where the test fails
    drawn = random.Random(seed)
    (whole,) = execute(warm_python, [], shapes, tmp_path / "whole")
    step = whole["seconds"] / 120  # more than that, for the start is in it
    plan: list[Any] = [drawn.uniform(0, 12 * step) for _ in range(3)]
    plan += [{"progress": drawn.uniform(0, 4 * step)} for _ in range(7)]
    plan += [{"write": drawn.randint(1, 4), "at": point} for point in 2 * POINTS]
    drawn.shuffle(plan)
    starts = execute(warm_python, plan, shapes, tmp_path / "parts")
    assert [start["ended"] for start in starts] == ["killed"] * 20 + [0]
    in_writing = [start for start in starts if start["planned"] and "write" in str(start["planned"])]
    assert all(start["left"] or start["planned"]["at"] == "renamed" for start in in_writing), "none was half-written"
    assert not starts[-1]["left"], "removed by the next start"

    output = (tmp_path / "parts.txt").read_text()
    assert "removed .last.pt-" in output
    compare(tmp_path, [1, 2, 3, 4, 5], same, log_of)


def test_a_semi_supervised_run_is_killed(
    warm_python: str, shapes: Path, tmp_path: Path, same: Any, log_of: Any
) -> None:
    execute(warm_python, [], shapes, tmp_path / "whole", SEMI)
    plan = [{"write": nth, "at": point} for nth, point in ((3, "renamed"), (6, "half"), (5, "flushed"))]
    starts = execute(warm_python, plan, shapes, tmp_path / "parts", SEMI)
    assert [start["ended"] for start in starts] == ["killed"] * 3 + [0]
    compare(tmp_path, [1, 2, 3], same, log_of)


def test_a_run_of_re_identification_is_killed(warm_python: str, tmp_path: Path, same: Any, log_of: Any) -> None:
    write_figures(tmp_path / "figures", train=6, test=2, distractors=1, cameras=2)
    execute(warm_python, [], tmp_path / "figures", tmp_path / "whole", REID)
    plan = [{"write": nth, "at": point} for nth, point in ((2, "renamed"), (4, "half"))]
    starts = execute(warm_python, plan, tmp_path / "figures", tmp_path / "parts", REID)
    assert [start["ended"] for start in starts] == ["killed"] * 2 + [0]
    compare(tmp_path, [1, 2], same, log_of)


def test_a_detection_run_is_killed(warm_python: str, scenes: Path, tmp_path: Path, same: Any, log_of: Any) -> None:
    execute(warm_python, [], scenes, tmp_path / "whole", DETECT)
    plan = [{"write": nth, "at": point} for nth, point in ((3, "renamed"), (4, "half"), (4, "flushed"))]
    starts = execute(warm_python, plan, scenes, tmp_path / "parts", DETECT)
    assert [start["ended"] for start in starts] == ["killed"] * 3 + [0]
    compare(tmp_path, [1, 2], same, log_of)


def compare(tmp_path: Path, epochs: list[int], same: Any, log_of: Any) -> None:
    """Hold the run that was killed to the one that was not: all that they left."""
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    a["config"].pop("out"), b["config"].pop("out")
    for state in (a, b):
        state["progress"].pop("seconds")
        for process in state["processes"]:
            process.pop("loader_wait")
    assert a.keys() == b.keys()
    for part in a:
        assert same(a[part], b[part]), part
    best = [checkpoint.load(tmp_path / name / "best.pt") for name in ("whole", "parts")]
    assert same(best[0]["model"], best[1]["model"])
    whole, parts = (log_of(tmp_path / name, timed=False) for name in ("whole", "parts"))
    assert whole == parts
    assert [record["epoch"] for record in parts] == epochs
