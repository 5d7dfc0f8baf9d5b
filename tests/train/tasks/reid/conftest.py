"""Small data sets for re-identification in Market-1501's layout, and runs on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from train.cli.checks import check
from train.engine.run import Run
from train.tasks.reid import task
from train.tasks.reid.config import ReidConfig
from train.tasks.reid.figures import write_figures
from train.tasks.reid.task import Reidentification

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000001_00.jpg", "0007_c3s2_000002_01.jpg"],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c2s1_000003_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg", "0000_c2s1_000004_02.jpg", "0001_c1s1_000005_01.jpg", "0001_c2s1_000006_01.jpg",
        "0003_c6s1_000007_01.jpg",
    ],
}  # fmt: skip


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A few files, with the table of pictures' thumbnails that the real archive has too."""
    root = tmp_path / "Market-1501-v15.09.15"
    for folder, names in MARKET.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "Thumbs.db").write_bytes(b"no image")
        for number, name in enumerate(names):
            Image.new("RGB", (8, 16), (20 * number, 100, 50)).save(root / folder / name)
    return root


@pytest.fixture(autouse=True)
def _quick_sheet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny file in place of a run's pictures, as in tests/train."""
    if request.node.get_closest_marker("pictures") is None:
        for name in ("write_figure", "write_retrievals"):
            monkeypatch.setattr(task, name, lambda *given, **_: Image.new("RGB", (1, 1)).save(given[-1]))


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training images of 8 identities by 3 cameras, and 8 queries in a gallery of 20."""
    root = tmp_path_factory.mktemp("figures")
    write_figures(root, train=8, test=4, distractors=4, cameras=3)
    return root


@pytest.fixture
def reid_run(figures: Path) -> Callable[..., Run]:
    """A run on the small figures with the options of `ReidConfig`, before its first step."""

    def build(**options: Any) -> Run:
        given = {"data": str(figures), "image_size": (32, 16), "batch_identities": 4, "batch_images": 2, "epochs": 2}
        config = ReidConfig(**(given | {"device": "cpu", "workers": 1} | options))
        check(config)
        run = Run(Reidentification.resolve(config))
        run.begin_epoch()
        return run

    return build
