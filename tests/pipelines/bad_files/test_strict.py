"""The strict decoder: damage in JPEG files, baseline and progressive, that a run's decoders do not report."""

import base64
import io
import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pipelines.bad_files.check import _decode, _runs
from pipelines.bad_files.strict import complaint

START, END, SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
# 8 × 8 pixels, not progressive, a scan for each of the three components: libjpeg-turbo writes it, Pillow cannot.
SCANS_OF_COMPONENTS = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYnKSopGR8tMC0o"
    "MCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCj/wAARCAAIAAgD"
    "ASIAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAABf/EABsQAAIBBQAAAAAAAAAAAAAAAAECAAMGBxEx/9oACAEBAAA/AA7KxmrojvS0o6SJ/8QA"
    "FAEBAAAAAAAAAAAAAAAAAAAABv/EABwRAAICAgMAAAAAAAAAAAAAAAECBBEAAwVRYf/aAAgBAhEAPwArL5R4qaqRWLLZsHvwjP/EABQBAQAAAAAA"
    "AAAAAAAAAAAAAAT/xAAaEQABBQEAAAAAAAAAAAAAAAAEAAECBQYi/9oACAEDEQA/AF5q8NkE3a//2Q=="
)


def _jpeg(photo: Image.Image, *, progressive: bool) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=85, progressive=progressive)
    return buffer.getvalue()


def _parts(jpeg: bytes) -> list[bytes]:
    """Return the parts of an intact file between its start and its end, each of which begins with a marker."""
    places = [match.start() for match in re.finditer(rb"\xff[\xc0-\xcf\xda-\xfe]", jpeg)]
    kept, end = [], 2
    for place in places:
        if place >= end:  # not within the segment before
            kept.append(place)
            end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return [jpeg[start:stop] for start, stop in pairwise([*kept, len(jpeg) - 2])]


def _joined(parts: list[bytes]) -> bytes:
    return START + b"".join(parts) + END


def _with_noise(parts: list[bytes], which: int, generator: np.random.Generator) -> bytes:
    """Overwrite 200 bytes of a scan's data, or what it has, with bytes that are no markers."""
    scan = bytearray(parts[which])
    data = 2 + int.from_bytes(scan[2:4], "big")
    count = min(200, len(scan) - data)
    start = int(generator.integers(data, len(scan) - count + 1))
    scan[start : start + count] = generator.integers(0, 255, count, dtype=np.uint8).tobytes()
    return _joined([*parts[:which], bytes(scan), *parts[which + 1 :]])


@pytest.mark.parametrize("progressive", [False, True])
def test_most_overwritten_data_is_detected(make_photo: Callable[..., Image.Image], progressive: bool) -> None:
    """DALI decodes every one; the rest happens to end where the data ends."""
    generator = np.random.default_rng(0)
    found = files = 0
    for seed in range(8):
        jpeg = _jpeg(make_photo(120, 160, seed=seed), progressive=progressive)
        assert complaint(jpeg) is None
        parts = _parts(jpeg)
        assert _joined(parts) == jpeg
        longest = sorted((len(part), place) for place, part in enumerate(parts) if part[1] == SCAN)[-4:]
        for _, which in longest * (1 if progressive else 4):
            damaged = _with_noise(parts, which, generator)
            assert _runs(_decode, damaged)
            files += 1
            found += complaint(damaged) is not None
    assert files == 32
    assert found >= 0.8 * files


def test_scans_that_are_lost_repeated_or_out_of_order(make_photo: Callable[..., Image.Image]) -> None:
    parts = _parts(_jpeg(make_photo(40, 50), progressive=True))
    scans = [place for place, part in enumerate(parts) if part[1] == SCAN]
    assert len(scans) == 10
    for place in scans:
        lost, repeated = [*parts[:place], *parts[place + 1 :]], [*parts[: place + 1], *parts[place:]]
        for damaged in map(_joined, (lost, repeated)):
            assert _runs(_decode, damaged)
            assert (complaint(damaged) or "").startswith(("Inconsistent progression", "Incomplete JPEG data"))
        ended = _joined(parts[:place])
        if place != scans[0]:
            assert _runs(_decode, ended)
            assert complaint(ended) == "Incomplete JPEG data: a scan is missing"
    late = [*parts[: scans[4]], *parts[scans[4] + 1 : scans[5] + 1], parts[scans[4]], *parts[scans[5] + 1 :]]
    assert "Inconsistent progression" in (complaint(_joined(late)) or "")


def test_a_component_without_its_scan() -> None:
    assert complaint(SCANS_OF_COMPONENTS) is None
    parts = _parts(SCANS_OF_COMPONENTS)
    scans = [place for place, part in enumerate(parts) if part[1] == SCAN]
    assert len(scans) == 3
    for place in scans:
        lost = _joined([*parts[:place], *parts[place + 1 :]])
        assert _runs(_decode, lost)
        assert complaint(lost) == "Incomplete JPEG data: a scan is missing"
