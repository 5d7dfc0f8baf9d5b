"""Images with boxes: the layouts of Pascal VOC and COCO, and what is refused of them, by file and place."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, Dataset, Objects, detection_loader, find_detection
from pipelines.labels.objects import CROWD, DIFFICULT

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def _object(name: str = "cat", box: str = "3 5 20 25", more: str = "") -> str:
    corners = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def _annotation(*objects: str, size: str = SIZE) -> str:
    return f"<annotation><folder>x</folder>{size}{''.join(objects)}</annotation>"


def _write_voc(root: Path, images: dict[str, str], lists: dict[str, list[str]]) -> Path:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for name, text in images.items():
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split, names in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    images = {
        "a": _annotation(_object(), _object("dog", "1 1 40 30", "<difficult>1</difficult>")),
        "b": _annotation(),
        "c": _annotation(_object("ant", "38.5 2 55 9"), size=""),
    }
    return _write_voc(tmp_path / "VOC2007", images, {"train": ["a", "b"], "test": ["c", "", "a"], "empty": [""]})


def _images(dataset: Dataset) -> list[tuple[str, list[tuple[str, list[float], int]]]]:
    objects = dataset.labels
    assert isinstance(objects, Objects)
    found = []
    for index in range(len(dataset)):
        own = range(objects.starts[index], objects.starts[index + 1])
        each = [(dataset.classes[objects.classes[k]], objects.boxes[k].tolist(), int(objects.kinds[k])) for k in own]
        found.append((Path(dataset.name(index)).name, each))
    return found


CAT, DOG = ("cat", [2, 4, 20, 25], 0), ("dog", [0, 0, 40, 30], DIFFICULT)


def test_vocs_layout(voc: Path) -> None:
    train = find_detection(voc)
    assert train.classes == ["cat", "dog"]
    assert _images(train) == [("a.jpg", [CAT, DOG]), ("b.jpg", [])]
    assert train.labels.sizes.tolist() == [[30, 40]] * 2
    test = find_detection(voc, "test")
    # Clipped to the image, whose size is in its header alone.
    assert _images(test) == [("c.jpg", [("ant", [37.5, 1, 40, 9], 0)]), ("a.jpg", [CAT, DOG])]
    known = find_detection(voc, "test", classes=["dog", "ant", "cat"])
    assert (known.classes, _images(known)) == (["dog", "ant", "cat"], _images(test))
    assert sum(len(batch.indices) for batch in detection_loader(test, batch_size=1, short_side=20, device="cpu")) == 2


def test_several_years_are_joined(voc: Path) -> None:
    other = _write_voc(voc.parent / "VOC2012", {"d": _annotation(_object("cow"))}, {"train": ["d"]})
    both = find_detection([voc, other])
    assert both.classes == ["cat", "cow", "dog"]
    assert [name for name, _ in _images(both)] == ["a.jpg", "b.jpg", "d.jpg"]
    assert _images(find_detection(voc.parent)) == _images(both)  # as VOCdevkit has them
    assert len(find_detection([voc, other], "test")) == 2  # only one has that list
    with pytest.raises(DataError, match=r"no split 'val'\. There are empty, test, train\."):
        find_detection([voc, other], "val")


def _coco() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 3, "file_name": "in/b.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {"image_id": 3, "category_id": 90, "bbox": [2, 4, 18, 21], "iscrowd": 0, "area": 5, "segmentation": []},
            {"image_id": 3, "category_id": 2, "bbox": [30.5, 0, 20, 30], "iscrowd": 1},
            {"image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 0]},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 4, "name": "emu"}],
    }


def _write_coco(root: Path, content: Any) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "train2017" / "in").mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "in/b.jpg"):
        Image.new("RGB", (40, 30)).save(root / "train2017" / name)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


COCO_FOUND = [("a.jpg", []), ("b.jpg", [("dog", [2, 4, 20, 25], 0), ("cat", [30.5, 0, 40, 30], CROWD)])]


def test_cocos_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _write_coco(tmp_path / "coco", _coco())
    with caplog.at_level(logging.WARNING, "pipelines"):
        dataset = find_detection(tmp_path / "coco")
    assert [record.getMessage() for record in caplog.records] == [
        f"'{file}': 1 boxes without width or height are left out"
    ]
    assert dataset.classes == ["cat", "emu", "dog"]  # by their ids
    assert _images(dataset) == COCO_FOUND
    named = find_detection(tmp_path / "coco" / "train2017", annotations=file, classes=["dog", "cat"])
    assert _images(named) == COCO_FOUND
    assert len(list(detection_loader(dataset, batch_size=1, short_side=20, device="cpu"))) == 2
    (file.parent / "instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"several files for 'train': instances_train2014\.json, instances_train2017"):
        find_detection(tmp_path / "coco")


def _bomb() -> str:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha"}">' for n in range(30))
    return f"<!DOCTYPE annotation [{entities}]><annotation>&e29;</annotation>"


BAD_XML = {
    "nothing": ("", r"a\.xml', line 1: no annotation in XML: no element found"),
    "text": ("these are no tags", r"a\.xml', line 1: no annotation in XML: syntax error"),
    "cut": (_annotation(_object())[:90], r"a\.xml', line 1: no annotation in XML: no element found|unclosed token"),
    "bomb": (_bomb(), r"a\.xml': it has a document type declaration, which is refused"),
    "outer file": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        r"a\.xml': it has a document type declaration, which is refused",
    ),
    "deep": ("<a>" * 100_000 + "</a>" * 100_000, r"a\.xml': it has more than 64 elements within one another"),
    "odd encoding": ('<?xml version="1.0" encoding="utf-7"?><annotation/>', r"a\.xml'.*"),
    "no name": (_annotation(_object("")), r"a\.xml', object 1: <name> must be the name of a class"),
    "no box": (_annotation("<object><name>cat</name></object>"), r"a\.xml', object 1: <bndbox> is missing"),
    "no corner": (
        _annotation(_object(), "<object><name>x</name><bndbox><xmin>1</xmin></bndbox></object>"),
        r"a\.xml', object 2: <ymin> must be a number, got None",
    ),
    "words": (_annotation(_object(box="a 1 2 3")), r"object 1: <xmin> must be a number, got 'a'"),
    "NaN": (_annotation(_object(box="1 nan 2 3")), r"object 1: <ymin> must be a number, got 'nan'"),
    "endless": (_annotation(_object(box="1 1 inf 3")), r"object 1: <xmax> must be a number, got 'inf'"),
    "beyond floats": (_annotation(_object(box=f"1 1 {'9' * 400} 3")), r"object 1: <xmax> must be a number, got '999"),
    "empty box": (_annotation(_object(box="9 9 4 20")), r"object 1: the box .*\(8, 8, 4, 20\) is empty"),
    "outside": (
        _annotation(_object(box="50 9 60 20")),
        r"object 1: the box .*\(49, 8, 60, 20\) is outside of the image, 40×30",
    ),
    "difficult": (_annotation(_object(more="<difficult>maybe</difficult>")), r"<difficult> must be 0 or 1, got maybe"),
    "size": (
        _annotation(size="<size><width>-4</width><height>3</height></size>"),
        r"a\.xml': <width> must be a whole number of pixels up to \d+, got -4",
    ),
    "wide": (_annotation(size="<size><width>1e9</width><height>3</height></size>"), r"<width> must be a whole number"),
    "unknown": (
        _annotation(_object("ya\u202ek")),
        r"a\.xml': the class of its object 1, 'ya\\u202ek', is not among the 2",
    ),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_annotations_in_xml_are_named(case: str, voc: Path) -> None:
    text, message = BAD_XML[case]
    (voc / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        find_detection(voc, classes=["cat", "dog"])


def test_lists_and_files_that_are_missing_are_named(voc: Path) -> None:
    for line in ("../../secret", "/etc/passwd", "a.jpg", "b/c", "x" * 1000):
        (voc / "ImageSets" / "Main" / "train.txt").write_text(f"a\n{line}\n")
        with pytest.raises(DataError, match=r"train\.txt', line 2: there is no image '") as caught:
            find_detection(voc)
        assert len(str(caught.value)) < 500
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (voc / "Annotations" / "a.xml").unlink()
    with pytest.raises(DataError, match=r"cannot read '.*a\.xml': No such file"):
        find_detection(voc)
    (voc / "Annotations" / "a.xml").mkdir()
    with pytest.raises(DataError, match=r"a\.xml': it is a folder, not a regular file"):
        find_detection(voc)
    with pytest.raises(DataError, match=r"empty\.txt' lists no images"):
        find_detection(voc, "empty")
    (voc / "JPEGImages" / "c.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"c\.xml': <size> states no size, and the header of '.*c\.jpg' cannot be read"):
        find_detection(voc, "test")
    with pytest.raises(DataError, match=r"no folder '.*nowhere'"):
        find_detection(voc / "nowhere")
    with pytest.raises(DataError, match=r"neither Pascal VOC's layout \(.*\) nor COCO's"):
        find_detection(voc / "JPEGImages")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"b\.xml' and all other annotations have no objects"):
        find_detection(voc)


def test_an_annotation_that_is_too_large_is_refused(voc: Path) -> None:
    with open(voc / "Annotations" / "a.xml", "wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(DataError, match=r"a\.xml': it has 16777217 bytes, more than"):
        find_detection(voc)


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {key: value for key, value in content.items() if key != name}


def _with(name: str, place: int, /, **changes: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        content[name][place] |= changes
        return content

    return change


BAD_JSON: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nothing": (lambda content: "", r"cannot read '.*json' as annotations in JSON: JSONDecodeError"),
    "text": (lambda content: "no json", r"cannot read '.*json' as annotations in JSON: JSONDecodeError"),
    "deep": (lambda content: "[" * 200_000, r"cannot read '.*json' as annotations in JSON: RecursionError"),
    "digits": (lambda content: "1" * 10_000, r"cannot read '.*json' as annotations in JSON: ValueError"),
    "list": (lambda content: [], r"json': it must have a list 'categories'"),
    "no images": (_without("images"), r"json': it must have a list 'images'"),
    "no annotations": (_without("annotations"), r"json': it must have a list 'annotations'"),
    "numbers": (lambda content: content | {"annotations": [3]}, r"annotations\[0\]: must be an object in JSON, got 3"),
    "no categories": (lambda content: content | {"categories": []}, r"json': it has no categories"),
    "empty": (lambda content: content | {"images": []}, r"json': it lists no images"),
    "NaN": (_with("annotations", 0, bbox=[1, 2, float("nan"), 4]), r"as annotations in JSON: ValueError: NaN is no"),
    "text in box": (_with("annotations", 0, bbox=["1", 2, 3, 4]), r"annotations\[0\]: each of bbox must be a number"),
    "truth in box": (_with("annotations", 0, bbox=[True, 2, 3, 4]), r"annotations\[0\]: each of bbox must be a number"),
    "short box": (_with("annotations", 1, bbox=[1, 2, 3]), r"annotations\[1\]: bbox must be \[left, top, width, heigh"),
    "negative": (_with("annotations", 1, bbox=[1, 2, -3, 4]), r"annotations\[1\]: the box .*\(1, 2, -2, 6\) is empty"),
    "outside": (_with("annotations", 0, bbox=[1, 31, 3, 4]), r"annotations\[0\]: the box .* is outside of the image"),
    "no image": (_with("annotations", 1, image_id=4), r"annotations\[1\]: image_id 4 is of none of the images"),
    "image list": (_with("annotations", 1, image_id=[]), r"annotations\[1\]: image_id must be an integer, got \[\]"),
    "no category": (
        _with("annotations", 1, category_id=5),
        r"annotations\[1\]: category_id 5 is none",
    ),
    "crowd": (_with("annotations", 1, iscrowd="yes"), r"annotations\[1\]: iscrowd must be 0 or 1, got 'yes'"),
    "same id": (_with("images", 1, id=7), r"images\[1\]: another image has the id 7"),
    "same name": (
        _with("categories", 1, name="dog"),
        r"categories\[1\]: another category has the id 2",
    ),
    "escape": (_with("images", 0, file_name="../a.jpg"), r"images\[0\]: file_name must be within '.*', got '\.\./a"),
    "absolute": (_with("images", 0, file_name="/etc/passwd"), r"images\[0\]: file_name must be within '.*', got '/etc"),
    "zero byte": (_with("images", 0, file_name="a\0"), r"images\[0\]: file_name must be a path, got 'a\\x00'"),
    "no size": (_with("images", 0, width=0), r"images\[0\]: width and height must be those of the image in pixels, go"),
    "size text": (_with("images", 0, width="40"), r"images\[0\]: width must be a number"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_annotations_in_json_are_named(case: str, tmp_path: Path) -> None:
    change, message = BAD_JSON[case]
    _write_coco(tmp_path, change(_coco()))
    with pytest.raises(DataError, match=message):
        find_detection(tmp_path)


def test_cut_and_overwritten_annotations_give_a_data_set_or_our_error(voc: Path) -> None:
    generator = np.random.default_rng(0)
    file = _write_coco(voc.parent / "coco", _coco())
    for path, read in ((voc / "Annotations" / "a.xml", voc), (file, voc.parent / "coco")):
        content = path.read_bytes()
        for _ in range(150):
            changed = bytearray(content[: generator.integers(1, len(content) + 1)])
            for place in generator.integers(0, len(changed), generator.integers(0, 4)):
                changed[place] = generator.integers(0, 256)
            path.write_bytes(bytes(changed))
            with contextlib.suppress(DataError):
                find_detection(read)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"root": []}, "root must be a folder, or a list of folders, got"),
        ({"root": 3}, "root must be a folder, or a list of folders, got 3"),
        ({"split": "../train"}, "split must be the name of a split"),
        ({"split": 3}, "split must be the name of a split"),
        ({"classes": "cat"}, "classes must be a list of names"),
        ({"root": ["a", "b"], "annotations": "c"}, "root must be one folder with annotations"),
    ],
)
def test_arguments_are_checked(given: dict[str, Any], message: str, voc: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find_detection(**({"root": voc} | given))
