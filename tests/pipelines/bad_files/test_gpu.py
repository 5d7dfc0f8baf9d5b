"""Bad files on a GPU, in a process of its own, as a decoder's fault ends the process."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

_LOADING = """
import json, sys
from pathlib import Path
from pipelines import DataError, image_loader

root, found = Path(sys.argv[1]), {}
for folder in sorted(root.iterdir()):
    options = {"root": folder, "batch_size": 4, "image_size": 32, "device": "cuda", "seed": 1}
    try:
        list(image_loader(**options))
    except DataError as error:
        said = str(error)
    else:
        said = ""
    replacing = image_loader(on_bad_file="replace", max_bad_share=0.5, **options)
    replaced = [index for _ in range(2) for batch in replacing for index in batch.replaced]
    names = [Path(replacing.dataset.name(index)).name for index in replaced]
    found[folder.name] = [said, names]
print(json.dumps(found))
"""


@pytest.mark.gpu
def test_bad_files_are_named_and_replaced_on_a_gpu(
    tmp_path: Path, make_photo: Callable[..., Image.Image], spoiled: Callable[..., dict[str, bytes]]
) -> None:
    contents = spoiled(make_photo(70, 60))
    for name, content in contents.items():
        (tmp_path / name / "a").mkdir(parents=True)
        for index in range(6):
            make_photo(80, 90, seed=index).save(tmp_path / name / "a" / f"{index}.jpg")
        (tmp_path / name / "a" / name).write_bytes(content)
    command = [sys.executable, "-c", _LOADING, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    for name in contents:
        said, replaced = found[name]
        # Of the body of a JPEG file, a GPU's decoders may accept what libjpeg does not.
        if name != "truncated.jpg" or said:
            assert said.startswith(f"cannot decode image '{tmp_path / name / 'a' / name}': "), name
            assert replaced == [name, name]
        else:
            assert replaced == []
