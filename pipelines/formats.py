"""The formats of image files: by their names, and by their first bytes."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".pnm", ".ppm", ".pgm", ".pbm",
    ".gif", ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
"""Of the files that are read, in any case. Which these are does not depend on what is installed to decode them."""

JPEG = b"\xff\xd8\xff"
_JPEG_NAMES = (".jpg", ".jpeg", ".jpe", ".jfif")
# The first bytes of the formats that are decoded.
_BEGINNINGS = {
    JPEG: "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF",
    b"MM\0+": "TIFF", b"RIFF": "WebP", b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"P1": "PBM",
    b"P2": "PGM", b"P3": "PPM", b"P4": "PBM", b"P5": "PGM", b"P6": "PPM", b"GIF8": "GIF",
}  # fmt: skip
# Brands of files that begin with a box "ftyp", the first of which that is known decides.
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC",
    b"hevc": "HEIC", b"hevx": "HEIC", b"hevm": "HEIC", b"hevs": "HEIC",
}  # fmt: skip
_MOST_BRANDS = 64
# Image formats that are not decoded, by where their first bytes begin.
_OTHERS = {
    (4, b"JXL "): "JPEG XL", (0, b"\xff\x0a"): "JPEG XL", (0, b"8BPS"): "Photoshop", (0, b"\0\0\1\0"): "icon",
    (0, b"P7\n"): "PAM", (0, b"Pf\n"): "PFM", (0, b"PF\n"): "PFM", (4, b"ftypmif1"): "HEIF",
}  # fmt: skip


def is_jpeg_name(name: str) -> bool:
    """Return whether a file is a JPEG file by its name."""
    return name.lower().endswith(_JPEG_NAMES)


def format_of(content: bytes) -> str | None:
    """Return the name of the format of an image, if it is one that is decoded."""
    for start, name in _BEGINNINGS.items():
        if content.startswith(start):
            return name if name != "WebP" or content[8:12] == b"WEBP" else None
    if content[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(content[:4], "big"), 16 + 4 * _MOST_BRANDS)
    brands = [content[8:12], *(content[place : place + 4] for place in range(16, size, 4))]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)


def other_format_of(content: bytes) -> str | None:
    """Return the name of the format of an image, if it is one that is known and not decoded."""
    for (start, beginning), name in _OTHERS.items():
        if content.startswith(beginning, start):
            return name
    return None


def article(name: str) -> str:
    """Return a format's name after "a" or "an"."""
    return f"{'an' if name[0] in 'AHIi' else 'a'} {name}"
