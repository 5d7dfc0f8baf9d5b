"""What a step of re-identification minimises: the losses of identities, of triplets, and of centres."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dali_salaug import SaliencyStage
from pipelines import Batch
from train.distributed import World
from train.engine.objective import BatchOutcome
from train.tasks.classification.objective import StageObjective
from train.tasks.reid.config import ResolvedReidConfig
from train.tasks.reid.losses import Centres, triplet_loss
from train.tasks.reid.network import ReidNetwork


class ReidObjective(StageObjective):
    """Cross-entropy of the identities, triplets with hard mining, and, as an option, the distance to the centres.

    Triplets are of the images of one part of one process. Centres follow the images of all processes, after each part
    of a step; with several parts, each of their steps has its share of the learning rate.

    Args:
        stage, network: see :class:`StageObjective`.
        config: of the run.
        world: the processes that train together.
    """

    network: ReidNetwork

    def __init__(self, stage: SaliencyStage, network: ReidNetwork, config: ResolvedReidConfig, world: World) -> None:
        triplet = ("triplet_loss",) if config.triplet_weight else ()
        center = ("center_loss",) if config.center_weight else ()
        super().__init__(stage, network, ("loss", "identity_loss", *triplet, *center))
        self.config, self.world = config, world
        self.centres = None
        if config.center_weight:
            device = next(network.model.parameters()).device
            lr = config.center_lr / config.accumulate
            self.centres = Centres(network.num_classes, network.model.features, lr=lr, device=device)

    def __call__(self, batch: Batch) -> BatchOutcome:
        trace, config = self._trace(batch), self.config
        features, logits, *early = self.network.parts(self.network.trained(trace.inputs))
        identity, *of_early = (self._classified(each, trace.targets) for each in (logits, *early))
        loss, losses = identity, {"identity_loss": identity}
        for each in of_early:
            loss = loss + config.early_weight * each
        if config.triplet_weight:
            losses["triplet_loss"] = triplet_loss(features, trace.targets, margin=config.triplet_margin)
            loss = loss + config.triplet_weight * losses["triplet_loss"]
        if self.centres is not None:
            losses["center_loss"] = self.centres.loss(features, trace.targets)
            loss = loss + config.center_weight * losses["center_loss"]
            self._follow(self.centres, features, trace.targets, loss)
        return BatchOutcome({"loss": loss} | losses, self._measures(trace, batch))

    def _classified(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def _follow(self, centres: Centres, features: Tensor, targets: Tensor, loss: Tensor) -> None:
        """Let the centres follow the features of all processes, unless the loss is not finite. Together."""
        step = centres.step(features, targets)
        step = torch.where(loss.isfinite(), step, 0.0)
        if self.world.host is not None:
            dist.all_reduce(step)
        centres.values += step / self.world.size

    def shared_state_dict(self) -> dict[str, Any]:
        own = {} if self.centres is None else {"centres": self.centres.values.cpu()}
        return super().shared_state_dict() | own

    def load_state_dict(self, state: dict[str, Any], shared: dict[str, Any]) -> None:
        shared = dict(shared)
        if self.centres is not None:
            kept = shared.pop("centres")
            if not isinstance(kept, Tensor) or kept.shape != self.centres.values.shape:
                raise ValueError("its centres are not those of this run's identities and features")
            self.centres.values.copy_(kept)
        super().load_state_dict(state, shared)

    def __repr__(self) -> str:
        config = self.config
        parts = ["identities"]
        parts += [f"triplets × {config.triplet_weight:g}, margin {config.triplet_margin:g}"] * (
            config.triplet_weight > 0
        )
        parts += [f"centres × {config.center_weight:g}"] * (config.center_weight > 0)
        return f"{' + '.join(parts)}, {self.stage!r}"
