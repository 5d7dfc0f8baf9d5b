"""examples/: they run, resume exactly, and are at most ten marked lines away from the same scripts without us."""

import difflib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from train.data.shapes import SHAPES, write_shapes
from train.models.registry import build_model

EXAMPLES = Path(__file__).parent.parent / "examples"
LOOP, FRAMEWORKS = ((EXAMPLES.parent / "docs" / name).read_text() for name in ("your-own-loop.md", "frameworks.md"))
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SMALL = ["--image-size=32", "--batch-size=8"]


def without_us(path: Path) -> str:
    """As the sed command in the scripts makes it, but for that command."""
    kept = re.sub(r"^.*# \+\n", "", path.read_text(), flags=re.M)
    return re.sub(r"^( *)# - ", r"\1", kept, flags=re.M)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 16 validation images: six steps of eight."""
    root = tmp_path_factory.mktemp("data")
    write_shapes(root, train_per_class=6, val_per_class=2)
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_both_are_there() -> None:
    assert [path.name for path in SCRIPTS] == ["lightning_loop.py", "timm_loop.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_our_part_is_at_most_ten_added_lines(path: Path) -> None:
    plain = re.sub(r"^ *# - (.*)\n", "", path.read_text(), flags=re.M).splitlines()  # of ours, what it does not run
    added = [
        line[2:] for line in difflib.ndiff(without_us(path).splitlines(), plain) if line.startswith("+ ") and line[2:]
    ]
    assert 5 < len(added) <= 10
    assert all(line.endswith("# +") for line in added)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_without_us_it_is_a_script_that_runs(
    path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / path.name
    plain.write_text(without_us(path).replace('"num_workers": 2', '"num_workers": 0').replace("num_workers=2", ""))
    for name in ("dali_salaug", "pipelines"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    assert load(plain).main([f"--data={data}", *SMALL, "--epochs=1"]) is not None


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_help_answers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(path).main(["--help"])
    assert stopped.value.code == 0
    assert "--resume" in capsys.readouterr().out


def test_timm_resumes_as_if_it_had_not_stopped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load(EXAMPLES / "timm_loop.py")
    options = [f"--data={data}", *SMALL, "--epochs=2"]
    whole = example.main([*options, f"--checkpoint={tmp_path / 'two.pt'}"])
    assert re.search(r"epoch 2/2  loss \d\.\d+  top-1 [\d.]+ %", capsys.readouterr().out)

    class Stopped(Exception):
        pass

    def save_and_stop(state: dict, file: Path) -> None:
        save(state, file)
        raise Stopped

    save = torch.save
    monkeypatch.setattr(torch, "save", save_and_stop)
    with pytest.raises(Stopped):
        example.main([*options, f"--checkpoint={tmp_path / 'one.pt'}"])
    assert torch.load(tmp_path / "one.pt", weights_only=True)["epoch"] == 1
    resumed = example.main([*options, f"--resume={tmp_path / 'one.pt'}"])
    assert_same_weights(resumed.module, whole.module)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_lightning_resumes_in_mid_epoch_and_after_an_epoch(data: Path, tmp_path: Path) -> None:
    example = load(EXAMPLES / "lightning_loop.py")
    options = [f"--data={data}", *SMALL, "--epochs=2"]
    whole = example.main([*options, "--checkpoint-every=2", f"--out={tmp_path}"])
    assert whole.global_step == 12
    for epoch, step, batch in ((0, 4, 4), (0, 6, 6), (1, 8, 2)):
        name = f"epoch={epoch}-step={step}.ckpt"
        state = torch.load(tmp_path / name, weights_only=True)
        (loader,) = state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        assert (loader["epoch"], loader["batch"]) == (epoch, batch)
        resumed = example.main([*options, f"--out={tmp_path / 'resumed'}", f"--resume={tmp_path / name}"])
        assert resumed.global_step == 12
        assert_same_weights(resumed.lightning_module, whole.lightning_module)


@pytest.mark.filterwarnings("ignore")
def test_lightning_casts_and_moves_our_batch(data: Path, tmp_path: Path) -> None:
    """In true half precision Lightning casts all that is floating point in a batch, and nothing else."""
    from lightning.fabric.utilities import move_data_to_device
    from lightning.pytorch.plugins import HalfPrecision

    from pipelines import image_loader

    batch = next(iter(image_loader(data, batch_size=8, image_size=32, policy="randaugment")))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert (type(moved), moved.images.device.type, moved.augmented.device.type) == (type(batch), "meta", "meta")
    cast = HalfPrecision("bf16-true").convert_input(batch)
    assert (cast.images.dtype, cast.augmented.dtype, cast.labels.dtype) == (torch.bfloat16, torch.bfloat16, torch.int64)
    assert cast.matrices is None


def test_the_plain_loop_of_the_page_resumes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", LOOP, flags=re.S)[0]
    code = code.replace("/data/imagenet", str(data)).replace("batch_size=256", "batch_size=8, image_size=32")
    assert "    save(epoch + 1)\n" in code
    code = code.replace("step % 1000 == 999", "step == 3").replace("    save(epoch + 1)\n", "")  # as if killed then
    monkeypatch.chdir(tmp_path)

    def run() -> tuple[torch.nn.Module, int]:
        torch.manual_seed(0)
        model = build_model("small", len(SHAPES), 32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        names: dict[str, Any] = {"model": model, "optimizer": optimizer, "num_classes": len(SHAPES), "epochs": 1}
        exec(code, names)
        return model, names["step"]

    whole, steps = run()
    assert (tmp_path / "last.pt").is_file()
    resumed, rest = run()
    assert (steps, rest) == (5, 1)  # the numbers of the last of six steps, and of the last of two
    assert_same_weights(resumed, whole)


def test_the_commands_of_the_page() -> None:
    commands = re.findall(r"^python examples/(\w+\.py)(.*)$", FRAMEWORKS, flags=re.M)
    assert len(commands) == 4
    for script, options in commands:
        load(EXAMPLES / script).build_parser().parse_args(shlex.split(options))
