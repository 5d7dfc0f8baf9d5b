"""Torchvision's detectors on the stages of a classifier: Faster R-CNN with a feature pyramid or C4, and RetinaNet.

The loader resizes, normalises and pads, so that torchvision's own transform of images has nothing to do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from pipelines import Batch
from train.errors import UserError
from train.tasks.detection.backbones import Body, LastStage, Stage, freeze, stages_of

DETECTORS = ("fasterrcnn_fpn", "fasterrcnn_c4", "retinanet")
# torchvision's names of the losses, and ours.
LOSSES = {
    "loss_classifier": "classifier_loss",
    "loss_box_reg": "box_loss",
    "loss_objectness": "objectness_loss",
    "loss_rpn_box_reg": "proposal_box_loss",
    "classification": "classifier_loss",
    "bbox_regression": "box_loss",
}
_LARGEST_ANCHOR = 512 / 800  # of the shorter side of images, as torchvision's at 800 pixels
_RATIOS = (0.5, 1.0, 2.0)  # height over width
_RETINA_LEVELS = 3  # of the backbone; two more follow
_FINEST = 4  # stride


@dataclass(frozen=True)
class DetectorOptions:
    """What a detector is built of.

    Attributes:
        kind: one of `DETECTORS`.
        side: shorter side of the images in pixels, to which the sizes of the anchors are proportional.
        channels: of the pyramid; a quarter of the units of Faster R-CNN's two layers on top of it.
        proposals: in an image that Faster R-CNN is trained on.
        trainable: the number of the backbone's stages that are trained, counted from the last; None: all.
        frozen_norm: whether the backbone's BatchNorm is fixed.
        amp: the type of mixed precision in the backbone; None: it has float32.
    """

    kind: str
    side: int
    channels: int = 256
    proposals: int = 512
    trainable: int | None = 3
    frozen_norm: bool = True
    amp: torch.dtype | None = None


class PaddedImages(ImageList):
    """The images of a batch as torchvision's detectors take them: one tensor, and the sizes without padding."""

    def __iter__(self) -> Iterator[Tensor]:
        for image, (height, width) in zip(self.tensors, self.image_sizes, strict=True):
            yield image[:, :height, :width]


class AsGiven(nn.Module):
    """Takes the place of torchvision's transform of images, for images that are resized and normalised already."""

    def forward(self, images: PaddedImages, targets: Any = None) -> tuple[PaddedImages, Any]:
        return images, targets

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        return result


class Pyramid(nn.Module):
    """Feature maps of a body, in float32, with a feature pyramid on top of them where there is one.

    Args:
        body: of the stages.
        pyramid: None: the first feature map alone.
        channels: of each feature map that is returned.
        amp: see `DetectorOptions`.
    """

    def __init__(
        self, body: nn.Module, pyramid: FeaturePyramidNetwork | None, channels: int, amp: torch.dtype | None
    ) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels, self.amp = body, pyramid, channels, amp

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.autocast(images.device.type, self.amp, enabled=self.amp is not None):
            features = self.body(images)
            features = {"0": features["0"]} if self.fpn is None else self.fpn(features)
        return {name: feature.float() for name, feature in features.items()}


class Detector(nn.Module):
    """A detector of torchvision's, on batches of `detection_loader`. Classes are numbered from 0.

    The backbone alone has mixed precision: coordinates in bfloat16 would be rounded to 4 pixels.

    Args:
        model: the classifier that becomes the backbone.
        classes: number of classes.
        options: see there.
        name: of the classifier, for messages.

    Attributes:
        stages: of the backbone.

    Raises:
        UserError: the classifier has no such stages.
    """

    def __init__(self, model: nn.Module, classes: int, options: DetectorOptions, name: str) -> None:
        super().__init__()
        self.stages = stages_of(model, name)
        trainable = len(self.stages) if options.trainable is None else options.trainable
        if trainable > len(self.stages):
            raise UserError(
                f"--trainable-layers must be at most {len(self.stages)}, the stages of --model {name}; got {trainable}"
            )
        freeze(model, self.stages, trainable)
        build = {"fasterrcnn_fpn": _faster_rcnn, "fasterrcnn_c4": _c4, "retinanet": _retinanet}[options.kind]
        self.detector = build(model, self.stages, classes, options)
        self.detector.transform = AsGiven()
        self.first_class = 0 if options.kind == "retinanet" else 1  # of Faster R-CNN 0 is the background

    def forward(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], targets: list[dict[str, Tensor]] | None = None
    ) -> Any:
        """Return the losses by torchvision's names, in training mode; or else the detections.

        Args:
            images: (B, 3, H, W), normalised and padded.
            sizes: height and width of each without padding.
            targets: "boxes" (k, 4) float32 in pixels, and "labels" (k,) int64, of each image; in training mode.

        Returns:
            Of the detections, for each image "boxes" (n, 4), "labels" (n,) and "scores" (n,).
        """
        first = self.first_class
        if targets is not None:
            targets = [target | {"labels": target["labels"] + first} for target in targets]
        with torch.autocast(images.device.type, enabled=False):
            found = self.detector(PaddedImages(images, list(sizes)), targets)
        if self.training:
            return found
        return [detection | {"labels": detection["labels"] - first} for detection in found]


def targets_of(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the objects of a batch as `Detector` takes them."""
    return [{"boxes": b, "labels": c} for b, c in zip(batch.labels.boxes, batch.labels.classes, strict=True)]


def _levels(stages: Sequence[Stage], count: int) -> list[Stage]:
    """Return the last stages, at most `count`: those of a stride of at least 4, or the last two."""
    coarse = [stage for stage in stages if stage.stride >= _FINEST]
    return (coarse if len(coarse) > 1 else list(stages[-2:]))[-count:]


def _sides(options: DetectorOptions, levels: int) -> list[float]:
    """Return the side of the anchors of each level in pixels: at 800 pixels 32, 64, …, 512."""
    return [_LARGEST_ANCHOR * options.side / 2 ** (levels - 1 - level) for level in range(levels)]


def _pyramid(
    model: nn.Module, levels: Sequence[Stage], options: DetectorOptions, extra: LastLevelMaxPool | LastLevelP6P7
) -> Pyramid:
    body = Body(model, levels, frozen_norm=options.frozen_norm)
    pyramid = FeaturePyramidNetwork([stage.channels for stage in levels], options.channels, extra_blocks=extra)
    return Pyramid(body, pyramid, options.channels, options.amp)


def _proposals(number: int) -> dict[str, int]:
    """Return how many proposals Faster R-CNN makes, and is trained on: of 512, as torchvision's; of fewer, fewer."""
    return {
        "rpn_pre_nms_top_n_train": min(2000, 8 * number),
        "rpn_post_nms_top_n_train": min(2000, 4 * number),
        "rpn_pre_nms_top_n_test": min(1000, 8 * number),
        "rpn_post_nms_top_n_test": min(1000, 2 * number),
        "box_batch_size_per_image": number,
    }


def _faster_rcnn(model: nn.Module, stages: Sequence[Stage], classes: int, options: DetectorOptions) -> nn.Module:
    levels = _levels(stages, 4)
    backbone = _pyramid(model, levels, options, LastLevelMaxPool())
    sides = _sides(options, len(levels) + 1)
    pool = MultiScaleRoIAlign([str(number) for number in range(len(levels))], output_size=7, sampling_ratio=2)
    units = 4 * options.channels
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), (_RATIOS,) * len(sides)),
        box_roi_pool=pool,
        box_head=TwoMLPHead(options.channels * 7**2, units),
        box_predictor=FastRCNNPredictor(units, classes + 1),
        **_proposals(options.proposals),
    )


def _c4(model: nn.Module, stages: Sequence[Stage], classes: int, options: DetectorOptions) -> nn.Module:
    level, last = stages[-2:]
    head = LastStage(Body(model, [level, last], frozen_norm=options.frozen_norm))
    body = Body(model, [level], frozen_norm=options.frozen_norm)
    sides = (tuple(_sides(options, 5)),)
    return FasterRCNN(
        Pyramid(body, None, level.channels, options.amp),
        rpn_anchor_generator=AnchorGenerator(sides, (_RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        box_head=head,
        box_predictor=FastRCNNPredictor(last.channels, classes + 1),
        **_proposals(options.proposals),
    )


def _retinanet(model: nn.Module, stages: Sequence[Stage], classes: int, options: DetectorOptions) -> nn.Module:
    levels = _levels(stages, _RETINA_LEVELS)
    backbone = _pyramid(model, levels, options, LastLevelP6P7(options.channels, options.channels))
    sides = [tuple(side * 2 ** (part / 3) for part in range(3)) for side in _sides(options, len(levels) + 2)]
    anchors = AnchorGenerator(tuple(sides), (_RATIOS,) * len(sides))
    return RetinaNet(backbone, classes, anchor_generator=anchors, detections_per_img=100)
