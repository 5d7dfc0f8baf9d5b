"""Train a detector on the backbone of a run of classification, or resume a run.

The detector is torchvision's Faster R-CNN or RetinaNet. DALI reads, decodes, resizes and mirrors the images, with their
boxes. Each epoch ends with COCO's mean average precision on the validation images. The run's folder gets a log,
pictures of training images and of detections, checkpoints and config.yaml, as that of training.

Without options, the program trains on embedded scenes of the embedded shapes, from random weights.
"""

import argparse

from train.cli.parser import add_option
from train.cli.presets import presets_of
from train.programs.train import add_common_options, start
from train.tasks.detection.config import DetectionConfig

# Of classification alone, or of no use here.
LEFT_OUT = ("lr_per_256", "color_jitter", "compile")


def add_options(parser: argparse.ArgumentParser) -> None:
    for name in DetectionConfig.options():
        if name not in LEFT_OUT:
            add_option(parser, name, DetectionConfig)
    add_common_options(parser)
    parser.usage = "%(prog)s [OPTION ...]"
    parser.epilog = f"presets: {', '.join(presets_of(DetectionConfig))}"


def run(options: argparse.Namespace) -> int:
    """Train as the command line states. Returns the exit status: 0, or 130 when interrupted.

    Raises:
        UserError, DataError: the options or the data cannot be used.
    """
    return start(options, DetectionConfig, dict)
