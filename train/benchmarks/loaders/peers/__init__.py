"""The loaders of the scoreboard, one module each.

A peer is a module with

- `TITLE`, its name in the table, and `FORM`, a line on how it is used,
- `PIP`, what pip installs into its environment, each with its lower bound; none: it runs in this one,
- `open_loader(job)`, which returns a `Loader` (peers/base.py),
- and, if it has a form of its own, `convert(samples, out)`, which writes it into the folder `out`.

Nothing of a library is imported before `convert` or `open_loader` is called, as this process reads the facts.
"""

NAMES = (
    "ours",
    "torchvision_pillow",
    "dali",
    "webdataset",
    "stateful_dataloader",
    "simplejpeg",
    "litdata",
    "mosaic",
    "kornia_rs",
    "spdl",
    "torchcodec",
)
