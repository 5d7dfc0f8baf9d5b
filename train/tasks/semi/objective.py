"""The semi-supervised objective: UDA (Xie et al. 2020, arXiv:1904.12848) and FixMatch (Sohn et al. 2020), by a stage.

KeepAugment §4.3 is UDA whose augmented images are KeepRandAugment's, by the map of the greatest logit.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from dali_salaug import SaliencyStage
from pipelines import Batch, ImageLoader
from train.engine.network import Network
from train.engine.objective import BatchOutcome
from train.tasks.classification.objective import StageObjective
from train.tasks.semi.config import ResolvedSemiConfig

_STEEPNESS = 5  # of the annealing's exponentials, UDA §3.1


def consistency_loss(
    clean: Tensor, augmented: Tensor, *, temperature: float, confidence: float, hard: bool
) -> tuple[Tensor, Tensor]:
    """Return the consistency loss of unlabelled images, and which of them are confident.

    The loss of an image is KL(p ‖ q). q is the prediction on the augmented image. p, through which no gradient flows,
    is that on the clean image, at the temperature (UDA §3.3), or, hard, its most probable class alone, so that the loss
    is cross-entropy (FixMatch). An image counts if its greatest probability, at temperature 1, is above the confidence.
    The mean is over all images, as UDA's authors compute it.

    Args:
        clean, augmented: logits of the two forms of each image, (B, K), floating point.
        temperature: above 0; not used by hard pseudo-labels.
        confidence: in [0, 1).
        hard: whether the target is a class.

    Returns:
        The loss, 0-dim, float32; and (B,), bool.
    """
    clean, log_q = clean.detach().float(), F.log_softmax(augmented.float(), dim=1)
    confident = clean.softmax(1).amax(1) > confidence
    if hard:
        losses = F.nll_loss(log_q, clean.argmax(1), reduction="none")
    else:
        log_p = F.log_softmax(clean / temperature, dim=1)
        losses = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return (losses * confident).mean(), confident


def annealed_cross_entropy(
    logits: Tensor, labels: Tensor, *, threshold: float | None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean cross-entropy of the labelled images whose class has a probability of at most `threshold`.

    The others have no gradient. The mean is over those that count, 0 where there are none (UDA §3.1, "TSA").

    Args:
        logits: (B, K), floating point.
        labels: (B,), int64.
        threshold: see `annealing_threshold`; None: all images count.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].

    Returns:
        0-dim, float32.
    """
    logits = logits.float()
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if threshold is None:
        return losses.mean()
    counts = logits.detach().softmax(1).gather(1, labels[:, None])[:, 0] <= threshold
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def annealing_threshold(schedule: str, progress: float, classes: int) -> float | None:
    """Return UDA's threshold η on the probability of the label: from about 1/K at the start to about 1 at the end.

    Args:
        schedule: "linear", "log" (fast at first), "exp" (fast at last), or "off".
        progress: share of the run's steps that are done, in [0, 1].
        classes: K.

    Returns:
        η; None where the schedule is "off".
    """
    if schedule == "off":
        return None
    share = {
        "linear": progress,
        "log": 1 - math.exp(-_STEEPNESS * progress),
        "exp": math.exp(_STEEPNESS * (progress - 1)),
    }[schedule]
    return share * (1 - 1 / classes) + 1 / classes


class SemiObjective(StageObjective):
    """Cross-entropy on labelled images, and the consistency of unlabelled ones with what the stage makes of them.

    A batch is of unlabelled images; the labelled ones come from a loader of the objective's own. All go through the
    network together. Without a weight of the consistency, the unlabelled images are not used.

    Args:
        stage, network: see :class:`StageObjective`.
        config: of the run.
        labelled: the loader of the labelled images, with a full batch for each batch of unlabelled ones.
        known: whether the unlabelled images' labels are known, to measure the pseudo-labels.
        steps: number of steps in an epoch.
    """

    def __init__(
        self,
        stage: SaliencyStage,
        network: Network,
        config: ResolvedSemiConfig,
        labelled: ImageLoader,
        *,
        known: bool,
        steps: int,
    ) -> None:
        names = ("loss", "supervised_loss", "consistency_loss")
        super().__init__(stage, network, names if config.unlabelled_weight else names[:2])
        of_stage = self.stage_measures if stage.method.uses_saliency else ()
        self.measure_names = ("confident_share", *(("pseudo_label_accuracy",) if known else ()), *of_stage)
        self.config, self.labelled, self.known = config, labelled, known
        self._steps = steps
        self._batches: Iterator[Batch] = iter(())
        self._epoch = self._parts = 0  # where the next batch is: the epoch, and the batches before it

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.labelled.set_epoch(epoch)
        self._batches = iter(self.labelled)
        if epoch != self._epoch:
            self._epoch, self._parts = epoch, 0

    def summarised(self, means: dict[str, float]) -> dict[str, float]:
        if "pseudo_label_accuracy" in means:  # of the confident images, where there are some
            right, confident = means.pop("pseudo_label_accuracy"), means["confident_share"]
            means |= {"pseudo_label_accuracy": right / confident} if confident > 0 else {}
        return super().summarised(means)

    def state_dict(self) -> dict[str, Any]:
        position = {"labelled": self.labelled.state_dict(), "epoch": self._epoch, "parts": self._parts}
        return super().state_dict() | position

    def load_state_dict(self, state: dict[str, Any], shared: dict[str, Any]) -> None:
        super().load_state_dict(state, shared)
        self.labelled.load_state_dict(state["labelled"])
        self._epoch, self._parts = int(state["epoch"]), int(state["parts"])

    def __call__(self, batch: Batch) -> BatchOutcome:
        with record_function("loader"):
            labelled = next(self._batches)
        threshold = annealing_threshold(
            self.config.training_signal_annealing, self._progress(), self.network.num_classes
        )
        self._parts += 1
        if not self.config.unlabelled_weight:
            supervised = self._supervised(self._outputs(labelled.images), labelled.labels, threshold)
            alone = torch.stack(supervised).sum(), supervised[0]
            return BatchOutcome(dict(zip(self.loss_names, alone, strict=True)), {})
        trace = self._trace(batch)
        outputs = self._outputs(torch.cat([labelled.images, batch.images, trace.inputs]))
        sizes = [len(labelled.images), len(batch.images), len(batch.images)]
        supervised = self._supervised([each[: sizes[0]] for each in outputs], labelled.labels, threshold)
        _, clean, augmented = outputs[0].split(sizes)
        consistency, confident = consistency_loss(
            clean,
            augmented,
            temperature=self.config.temperature,
            confidence=self.config.confidence,
            hard=self.config.pseudo_labels == "hard",
        )
        loss = torch.stack(supervised).sum() + self.config.unlabelled_weight * consistency
        losses = loss, supervised[0], consistency
        measures = {"confident_share": confident.float()}
        if self.known:  # see `summarised`
            measures["pseudo_label_accuracy"] = (confident & (clean.argmax(1) == batch.labels)).float()
        if self.stage.method.uses_saliency:  # in warm-up there is no region
            nothing = dict.fromkeys(self.stage_measures, torch.zeros_like(measures["confident_share"]))
            measures |= self._measures(trace, batch) or nothing
        return BatchOutcome(dict(zip(self.loss_names, losses, strict=True)), measures)

    def _progress(self) -> float:
        """Return the share of the run's steps that are done."""
        return (self._epoch + self._parts // self.config.accumulate / self._steps) / self.config.epochs

    def _outputs(self, images: Tensor) -> list[Tensor]:
        """Return the logits of the network, and those of the early head where there is one."""
        outputs = self.network.trained(images)
        return [outputs] if self.network.with_head is None else list(outputs)

    def _supervised(self, outputs: list[Tensor], labels: Tensor, threshold: float | None) -> list[Tensor]:
        """Return the losses of the labelled images: the network's, and the early head's with its weight."""
        smoothing = self.config.label_smoothing
        loss = annealed_cross_entropy(outputs[0], labels, threshold=threshold, label_smoothing=smoothing)
        early = (F.cross_entropy(each.float(), labels, label_smoothing=smoothing) for each in outputs[1:])
        return [loss, *(self.config.early_weight * each for each in early)]

    def __repr__(self) -> str:
        config = self.config
        if not config.unlabelled_weight:
            return f"the {len(self.labelled.dataset)} labelled images alone"
        kind = "hard pseudo-labels" if config.pseudo_labels == "hard" else f"temperature {config.temperature:g}"
        return (
            f"consistency × {config.unlabelled_weight:g} ({kind}, confidence above {config.confidence:g}),"
            f" {self.stage!r}"
        )
