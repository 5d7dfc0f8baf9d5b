"""A small data set for re-identification in Market-1501's layout."""

from pathlib import Path

import pytest
from PIL import Image

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
