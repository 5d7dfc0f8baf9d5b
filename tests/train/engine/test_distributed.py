"""Two processes, as torchrun starts them, beside one: the same samples, steps and figures; stopped, killed, resumed."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from train.engine import checkpoint
from train.engine.run import Run
from train.errors import UserError
from train.programs.train import main
from train.tasks.reid.figures import write_figures

SCRIPT = str(Path(__file__).parent / "in_processes.py")


class Launch:
    """Runs the program in processes that torchrun starts, or in one if there are 0, and notes the samples of each step.

    torchrun itself starts them where it is to restart them. Else they have the same environment, and start quickly.
    """

    def __init__(self, python: str, data: Path, folder: Path, size: tuple[str, ...] = ("16",)) -> None:
        self.python, self.data, self.folder, self.size = python, data, folder, size

    def __call__(
        self,
        name: str,
        processes: int,
        *options: str,
        accident: str = "-",
        restarts: int = 0,
        new: bool = True,
        program: str = "train",
        own_data: Path | None = None,
    ) -> subprocess.CompletedProcess:
        notes = self.folder / f"{name}-notes"
        notes.mkdir(exist_ok=True)
        data = ["--data", str(self.data), "--image-size", *self.size] if new else ["--resume"]
        data = data if own_data is None else ["--data", str(own_data)]
        command = [SCRIPT, str(notes), accident, program, *data, "--out", name, *options]
        if restarts:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            torchrun += [f"--max-restarts={restarts}", "--monitor-interval=0.1", "--no-python", self.python]
            started = [self.start([sys.executable, *torchrun, *command], {})]
        else:
            environments = torchrun_environments(processes) or [{}]
            started = [self.start([self.python, *command], environment) for environment in environments]
        ended = [(*process.communicate(timeout=200), process.returncode) for process in started]
        outputs, errors, statuses = zip(*ended, strict=True)
        return subprocess.CompletedProcess(command, max(map(abs, statuses)), "".join(outputs), "".join(errors))

    def start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )

    def samples(self, name: str) -> dict[int, list[int]]:
        """The samples of each step, from all processes."""
        seen: dict[int, list[int]] = {}
        for path in sorted((self.folder / f"{name}-notes").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                step, indices = json.loads(line)
                seen.setdefault(step, []).extend(indices)
        return seen


def torchrun_environments(size: int) -> list[dict[str, str]]:
    """What torchrun sets for each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0}
    return [{k: str(v) for k, v in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()} for rank in range(size)]


@pytest.fixture(scope="module")
def launch(warm_python: str, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return Launch(warm_python, shapes, tmp_path_factory.mktemp("processes"))


def test_two_processes_take_the_steps_of_one(launch: Launch) -> None:
    """In parts too; the second process has no image of the last batch, which has one."""
    options = ["--plain-net", "--method", "randaugment", "--batch-size", "8", "--train-images", "41", "--epochs", "2"]
    one = launch("one", 0, *options)
    assert one.returncode == 0, one.stderr
    two = launch("two", 2, *options, "--accumulate", "2")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("epoch 1/2") == two.stdout.count("run folder") == 1  # of the first process alone

    alone, together = launch.samples("one"), launch.samples("two")
    assert sorted(alone) == sorted(together) == list(range(12))
    for step in range(12):
        if step % 6 == 5:  # the second process takes part with two black images, which do not count
            assert together[step] == [*alone[step], 0, 0]
        else:
            assert sorted(together[step]) == sorted(alone[step])
    for epoch in (0, 1):
        assert sorted(i for step in range(6 * epoch, 6 * epoch + 6) for i in alone[step]) == list(range(41))

    a, b = (checkpoint.load(launch.folder / name / "last.pt") for name in ("one", "two"))
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=1e-4, atol=1e-5)
    logs = ((launch.folder / name / "log.jsonl").read_text().splitlines() for name in ("one", "two"))
    for own, other in zip(*(map(json.loads, log) for log in logs), strict=True):
        for name in ("train_loss", "val_loss", "val_top1", "val_top5", "lr"):
            assert other[name] == pytest.approx(own[name], rel=1e-4), name


KEEP = [
    "--method", "keep_cutout", "--early-head", "layer1", "--model", "resnet18", "--batch-size", "8", "--epochs", "2",
    "--train-images", "32", "--checkpoint-every", "3", "--ema", "0.5", "--region-size", "6",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(launch: Launch) -> dict[str, Any]:
    """The last checkpoint of an undisturbed run of two processes; eight steps."""
    done = launch("whole", 2, *KEEP)
    assert done.returncode == 0, done.stderr
    return checkpoint.load(launch.folder / "whole" / "last.pt")


PARTS = ("model", "averaged", "early_head", "optimizer", "scheduler", "processes")


def test_two_processes_take_the_steps_of_a_semi_supervised_one(launch: Launch) -> None:
    """Of full steps: in the last one of an epoch, labelled images would count by the unlabelled ones beside them."""
    options = ["--plain-net", "--method", "randaugment", "--labels", "16", "--unlabelled-ratio", "3", "--lr", "0.1"]
    options += ["--batch-size", "4", "--epochs", "2", "--confidence", "0", "--unlabelled-weight", "3"]
    one = launch("semi-one", 0, *options, program="semi")
    assert one.returncode == 0, one.stderr
    two = launch("semi-two", 2, *options, "--accumulate", "2", program="semi")
    assert two.returncode == 0, two.stderr
    a, b = (checkpoint.load(launch.folder / name / "last.pt") for name in ("semi-one", "semi-two"))
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=1e-4, atol=1e-5)
    logs = ((launch.folder / name / "log.jsonl").read_text().splitlines() for name in ("semi-one", "semi-two"))
    for own, other in zip(*(map(json.loads, log) for log in logs), strict=True):
        for name in ("train_supervised_loss", "train_consistency_loss", "pseudo_label_accuracy", "val_top1"):
            assert other[name] == pytest.approx(own[name], rel=1e-4), name


def test_two_processes_of_re_identification_resume(warm_python: str, tmp_path: Path, same: Any) -> None:
    """Their centres, remembered maps and validation are of all of them; stopped within an epoch, they end alike."""
    write_figures(tmp_path / "figures", train=8, test=3, distractors=2, cameras=2)
    launch = Launch(warm_python, tmp_path / "figures", tmp_path, ("16", "8"))
    options = ["--batch-identities", "4", "--batch-images", "2", "--epochs", "1"]
    options += ["--center-weight", "0.01", "--saliency", "memory", "--lr-warmup-epochs", "0"]
    whole = launch("whole", 2, *options, program="reid")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("epoch 1/1") == 1
    stopped = launch("parts", 2, *options, program="reid", accident="SIGTERM:1:2")
    assert stopped.returncode == 130, stopped.stderr
    resumed = launch("parts", 2, program="reid", new=False)
    assert resumed.returncode == 0, resumed.stderr
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("model", "optimizer", "objective"):
        assert same(a[part], b[part]), part
    assert a["objective"].keys() == {"memory", "centres"}
    logs = [json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("whole", "parts")]
    assert all(logs[0][name] == logs[1][name] for name in ("val_map", "val_rank1", "train_loss", "train_center_loss"))
    assert logs[0]["val_map"] > 0


def test_two_processes_measure_all_detections_together(launch: Launch, scenes: Path) -> None:
    options = ["--short-sides", "40", "--long-side", "64", "--pyramid-channels", "8", "--proposals", "8"]
    options += ["--batch-size", "4", "--epochs", "2", "--device", "cpu"]  # the last step has an image for each alone
    two = launch("detect-two", 2, *options, program="detect", own_data=scenes)
    assert two.returncode == 0, two.stderr
    log = [json.loads(line) for line in (launch.folder / "detect-two" / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2]
    state, config = checkpoint.load_any_run(launch.folder / "detect-two" / "last.pt")
    assert len(state["processes"]) == 2
    run = Run(config)
    run.network.load_state_dict(state)
    validation = run.task.start_validation(run.network)
    for batch in run.val_loader:
        validation.add(batch)
    alone = validation.values()
    assert {name: log[-1][name] for name in alone if name != "val_replaced"} == pytest.approx(
        {name: value for name, value in alone.items() if name != "val_replaced"}, abs=1e-5
    )


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 2)])
def test_more_processes_or_fewer_resume(launch: Launch, before: int, after: int) -> None:
    """Stopped in the second epoch: the steps, weights and sums are those of one process that was not stopped."""
    options = ["--plain-net", "--method", "randaugment", "--batch-size", "8", "--train-images", "41", "--epochs", "2"]
    if not (launch.folder / "one").exists():
        assert launch("one", 0, *options).returncode == 0
    name = f"from-{before}-to-{after}"
    stopped = launch(name, before, *options, accident="SIGTERM:0:8")
    assert "Interrupted" in stopped.stderr
    again = launch(name, after, "--plain-net", new=False)
    assert again.returncode == 0, again.stderr
    assert f"the checkpoint is of {before or 1} process(es), and {after or 1} are running" in again.stderr
    alone, together = launch.samples("one"), launch.samples(name)
    assert sorted(together) == list(range(12))
    for step in range(12):
        black = [0, 0] if step % 6 == 5 and len(together[step]) > 1 else []  # of a process without an image
        assert sorted(together[step]) == sorted([*alone[step], *black]), step
    a, b = (checkpoint.load(launch.folder / each / "last.pt") for each in ("one", name))
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=1e-4, atol=1e-5)
    logs = ((launch.folder / each / "log.jsonl").read_text().splitlines() for each in ("one", name))
    for own, other in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert other["train_loss"] == pytest.approx(own["train_loss"], rel=1e-4)
        assert other["val_top1"] == own["val_top1"]


def test_each_process_draws_its_own_regions(whole: dict[str, Any]) -> None:
    first, second = (own["objective"]["stage"]["generator"] for own in whole["processes"])
    assert not torch.equal(first, second)


def test_a_signal_to_one_stops_all_at_the_same_step(launch: Launch, whole: dict[str, Any], same: Any) -> None:
    stopped = launch("stopped", 2, *KEEP, accident="SIGTERM:1:4")
    assert stopped.returncode != 0
    assert "Interrupted; the state is in stopped/last.pt" in stopped.stderr
    state = checkpoint.load(launch.folder / "stopped" / "last.pt")
    assert (state["progress"]["epoch"], state["progress"]["step"]) in [(1, 1), (1, 2)]
    again = launch("stopped", 2, new=False)
    assert again.returncode == 0, again.stderr
    state = checkpoint.load(launch.folder / "stopped" / "last.pt")
    assert [part for part in PARTS if not same(state[part], whole[part])] == []


def test_one_is_killed_and_torchrun_restarts_all(launch: Launch, whole: dict[str, Any], same: Any) -> None:
    """From the last checkpoint, after step 3 of the second epoch's four."""
    killed = launch("killed", 2, *KEEP, accident="SIGKILL:1:7", restarts=1)
    assert killed.returncode == 0, killed.stderr
    assert "resuming in epoch 2 after step 3 of 4" in killed.stdout
    state = checkpoint.load(launch.folder / "killed" / "last.pt")
    assert [part for part in PARTS if not same(state[part], whole[part])] == []


def test_a_last_batch_of_one_image_for_each_process_and_changed_images(
    warm_python: str, shapes: Path, tmp_path: Path
) -> None:
    """Of 42 images the last step has two. All processes stop with the same sentence, and none waits for another."""
    shutil.copytree(shapes, tmp_path / "data")
    launch = Launch(warm_python, tmp_path / "data", tmp_path)
    options = ["--image-size", "8", "--batch-size", "8", "--train-images", "42", "--epochs", "1"]
    options += ["--method", "none"]
    refused = launch("run", 2, *options)
    assert refused.returncode != 0
    assert "the last batch of an epoch has one image (42 training images, --batch-size 8 over 2 proc" in refused.stderr
    done = launch("run", 2, *options, "--drop-last")
    assert done.returncode == 0, done.stderr
    seen = launch.samples("run")
    assert [len(seen[step]) for step in sorted(seen)] == [8] * 5

    changed = tmp_path / "data" / "val" / "star" / "0001.jpg"
    changed.write_bytes(changed.read_bytes() + b"more")
    resumed = launch("run", 2, "--epochs", "2", new=False)
    assert resumed.returncode != 0
    assert f"1 of 16 files have changed, first {changed}, by its size" in resumed.stderr
    accepted = launch("run", 2, "--epochs", "2", "--accept-changed-data", new=False)
    assert accepted.returncode == 0, accepted.stderr
    finished = launch("run", 2, new=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("is finished: 2 of 2 epochs are done") == 1


def test_batches_that_cannot_be_shared(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"data": str(shapes), "image_size": 16, "method": "none"}
    with pytest.raises(UserError, match=r"--batch-size.* multiple of .* 1 × 3; got 8"):
        main(given | {"out": str(tmp_path / "a"), "batch_size": 8, "accumulate": 3}, resuming=False)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(UserError, match=r"--max-restarts needs --out"):
        main(dict(given), resuming=False)
