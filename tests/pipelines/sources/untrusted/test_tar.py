"""Tar archives that are cut short, joined or damaged."""

import tarfile
from pathlib import Path

import pytest

from pipelines import DataError, find_dataset


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def _block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


SAMPLE = _header("a.jpg", 1) + _block(b"x") + _header("a.cls", 1) + _block(b"0")

END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SAMPLE, "cut short: it stops at byte 2048 without an end"),
        (SAMPLE + END + SAMPLE + END, "it ends at byte 2048, but there is more at byte 3072, as in joined archives"),
        (SAMPLE + bytes(512) + b"\0x" + bytes(510), "it ends at byte 2048, but there is more at byte 2561"),
        (SAMPLE + bytes([SAMPLE[0] ^ 1]) + SAMPLE[1:] + END, "the header at byte 2048 is damaged"),
        (bytes([SAMPLE[0] ^ 1]) + SAMPLE[1:] + END, "checksum"),
        (_header("a.jpg", -1024) + SAMPLE + END, "header|size"),
        (_header("0", 14, b"x") + _block(b"14 path=a.jpg\n") + SAMPLE + END, None),
        (2 * (_header("0", 16, b"x") + _block(b"16 size=-512512\n")) + SAMPLE + END, "size|invalid|negative"),
        (2 * (_header("0", 14, b"x") + _block(b"14 path=a.jpg\n")) + SAMPLE + END, None),
        (2000 * (_header("0", 13, b"x") + _block(b"13 path=a.jp\n")) + SAMPLE + END, "RecursionError"),
        (_header("0", 16, b"x") + _block(b"999 path=a.jpg\n\n") + SAMPLE + END, "header|sample"),
        (_header("0", 16, b"x") + _block(b"16 size=bad pax\n") + SAMPLE + END, "header|ValueError"),
    ],
)
def test_archives_that_end_early_or_are_damaged(tmp_path: Path, content: bytes, message: str | None) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    if message is None:
        assert find_dataset(tmp_path).encoded(0) == b"x"
        return
    with pytest.raises(DataError, match=message) as caught:
        find_dataset(tmp_path)
    assert "s.tar" in str(caught.value)


def test_archives_that_are_whole(tmp_path: Path) -> None:
    """One block of zeros is an end, and so are many."""
    for number, end in enumerate((bytes(512), END, bytes(2**21 + 512))):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "s.tar").write_bytes(SAMPLE + end)
        assert [find_dataset(root).encoded(0)] == [b"x"]


@pytest.mark.parametrize("place", [0, 100, 124, 140, 148, 156, 257, 345])
def test_each_flipped_bit_of_a_header_is_found(roots: dict[str, Path], tmp_path: Path, place: int) -> None:
    content = bytearray((roots["tar"] / "0.tar").read_bytes())
    with tarfile.open(roots["tar"] / "0.tar") as tar:
        for number, member in enumerate(tar):
            damaged = content.copy()
            damaged[member.offset_data - 512 + place] ^= 4
            (tmp_path / "s.tar").write_bytes(damaged)
            with pytest.raises(DataError, match=r"s\.tar' is no whole tar archive.*(checksum|header|byte)"):
                find_dataset(tmp_path)
            assert number or member.offset_data == 512
