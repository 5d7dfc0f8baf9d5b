"""The fifteen corruptions, image by image. Processes that only corrupt images import this module, and no torch."""

import contextlib
import io
import multiprocessing
import multiprocessing.process
import os
import signal
import threading

import numpy as np

# Of Hendrycks & Dietterich (2019, arXiv:1903.12261), in the order of the paper, whose numbers the seeds have.
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in GROUPS.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)
LEAST = 32  # pixels a side, which the library needs
_OWN_SEED = ("impulse_noise", "glass_blur")  # whose random numbers are not NumPy's global ones


def corrupt(pixels: np.ndarray, name: str, severity: int, *, seed: int, sample: int) -> np.ndarray:
    """Return a corrupted copy of an image, a function of the arguments alone.

    The corruption is that of the package imagecorruptions-imaug, whose random numbers are drawn from one seed for each
    (seed, sample, corruption, severity). NumPy's global state is as before.

    Args:
        pixels: (H, W, 3), uint8, at least `LEAST` pixels a side.
        name: one of CORRUPTIONS.
        severity: from 1 to 5.
        seed: of the evaluation.
        sample: the image's place in its data set.

    Returns:
        (H, W, 3), uint8.
    """
    import imagecorruptions

    entropy = np.random.SeedSequence((seed, sample, CORRUPTIONS.index(name), severity))
    number = int(entropy.generate_state(1)[0])
    before = np.random.get_state()  # noqa: NPY002  # the library draws from it
    np.random.seed(number)  # noqa: NPY002
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where a zoomed image is a pixel too small
            own = {"seed": number} if name in _OWN_SEED else {}
            return imagecorruptions.corrupt(pixels, severity=severity, corruption_name=name, **own)
    finally:
        np.random.set_state(before)  # noqa: NPY002


def corrupt_all(pixels: np.ndarray, name: str, severity: int, seed: int, samples: list[int]) -> np.ndarray:
    """Return images (B, H, W, 3), each corrupted as by `corrupt`."""
    return np.stack(
        [
            corrupt(image, name, severity, seed=seed, sample=sample)
            for image, sample in zip(pixels, samples, strict=True)
        ]
    )


def start_process() -> None:
    """Prepare a process that corrupts images: it leaves Ctrl-C to its parent, and ends when that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
