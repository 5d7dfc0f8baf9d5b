"""Everything that a run is made of, built from its configuration, and its state for a checkpoint."""

import functools
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from dali_salaug import METHODS, SaliencyStage, StageTrace, WithEarlyHead
from dali_salaug.region_share import region_share
from dali_salaug.saliency.maps import COMPILED
from pipelines import Batch
from train.config import ResolvedConfig
from train.data.loaders import empty_batch, make_loader
from train.engine import checkpoint
from train.engine.bad_files import replaced_in
from train.engine.distributed import ALONE, World
from train.engine.ema import AveragedWeights
from train.engine.loader_wait import LoaderWait
from train.engine.metrics import Meter
from train.engine.nonfinite import NonFiniteGuard
from train.engine.objective import check_layers, losses_of, make_consistency, names_of_losses
from train.engine.schedule import make_optimizer, make_scheduler
from train.errors import UserError
from train.models.registry import FIRST_BLOCK, build_model


def make_stage(config: ResolvedConfig, classes: int, seed: int, **options: Any) -> SaliencyStage:
    """Build the stage of a configuration; `options` as of :class:`SaliencyStage`.

    Raises:
        UserError: the method cannot take images of the configured size.
    """
    method = METHODS[config.method].build(classes, region_size=config.region_size, tau=config.tau)
    side = config.image_size
    try:  # on one image, before anything is trained
        method.draw(torch.zeros(1, 3, side, side), torch.zeros(1, side, side), torch.Generator())
    except ValueError as error:
        raise UserError(f"--method {config.method} at --image-size {side}: {error}") from error
    return SaliencyStage(
        method,
        saliency=config.saliency,
        scale=config.saliency_scale,
        target=config.saliency_target,
        seed=seed,
        **options,
    )


class Run:
    """A training run: loaders, model, optimizer, schedule, stage, and how far it has come.

    A step takes `config.batch_size` images over all processes, and in each of them in `config.accumulate` parts, one
    after the other. The processes together take the very steps that one alone would, but for BatchNorm, which
    normalises each part of each process by itself, and for the stage's draws.

    Args:
        config: resolved for its data.
        world: the processes that train together.

    Attributes:
        model: the network, free of the early head.
        with_head: the same with its early head, always in training mode; None without one.
        averaged: the running average of its weights, which is what is validated; None without one.
        steps: in an epoch.
        epoch: whole epochs done (validated and logged).
        step: steps done in the epoch under way.
        seconds: spent in the epoch under way.
        consistency: the saliency-consistency loss; None where the loss is the network's on the stage's inputs.
        meter: the training loss and its parts, and the number of images replaced, in the epoch under way.
        regions: the share of the saliency in the drawn regions, and their share of the area, in the epoch under way.
        loader_wait: how long the steps of the epoch under way waited for the loader, in this process.
        guard: over losses and gradients that are not finite.
        best: the best top-1 so far, per cent.
    """

    def __init__(self, config: ResolvedConfig, world: World = ALONE) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: there is no usable CUDA device; legal are auto and cpu")
        self.config = config
        self.world = world
        self.train_loader = make_loader(config, train=True, world=world)
        self.val_loader = make_loader(config, train=False, world=world)
        self.classes = self.train_loader.dataset.classes
        self.device = self.train_loader.device
        self.steps = math.ceil(len(self.train_loader.dataset) / config.batch_size)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all steps have the same two image sizes

        checkpoint.seed_random_state(config.seed)
        model = build_model(config.model, len(self.classes), config.image_size)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = AveragedWeights(self.model, config.ema) if config.ema else None
        self.with_head = None if config.early_head == "off" else self._with_early_head()
        self._wrapped: DistributedDataParallel | None = None
        self._network: nn.Module = self.with_head or self.model
        self.optimizer = make_optimizer(config, self._network)
        self.scheduler = make_scheduler(config, self.optimizer, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "float16")
        self.stage = self.make_stage(config.seed + world.rank)
        self.consistency = make_consistency(config)
        check_layers(self.consistency, self.model, config.image_size)
        self._wrap()
        if world.rank:  # dropout and the like; the weights are alike
            checkpoint.seed_random_state(config.seed + world.rank)

        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.begin_epoch()
        self.guard = self._make_guard()
        self.best = -1.0

    def make_stage(self, seed: int) -> SaliencyStage:
        head = None if self.with_head is None else self.with_head.early
        compiled = self.config.compile and self.config.saliency in COMPILED
        options = {"warmup_epochs": self.config.warmup_epochs, "head": head, "compiled": compiled}
        return make_stage(self.config, len(self.classes), seed, **options)

    def begin_epoch(self) -> None:
        """Begin to count and to measure from nothing."""
        self.meter = Meter((*names_of_losses(self.consistency), "replaced"), self.device, self.world)
        kept = "saliency_kept" if self.stage.method.uses_augmented else "saliency_cut"
        self.regions = Meter((kept, "region_area"), self.device, self.world)
        self.loader_wait = LoaderWait(self.device)

    def _make_guard(self) -> NonFiniteGuard:
        network, scaled = self.with_head or self.model, self.scaler.is_enabled()
        return NonFiniteGuard(self.config.on_nonfinite, network, self.optimizer, scaled=scaled, world=self.world)

    def _with_early_head(self) -> WithEarlyHead:
        name = self.config.early_head
        after = FIRST_BLOCK.get(self.config.model) if name == "auto" else name
        try:
            return WithEarlyHead(self.model, len(self.classes), after)
        except ValueError as error:
            raise UserError(f"--early-head {name}: {error}") from error

    def _wrap(self) -> None:
        if self.world.host is not None:
            # The buffers are shared before the saliency pass, which looks at them too, and not only before the forward.
            with warnings.catch_warnings():  # newer torch has another name for it, and warns of this one
                warnings.simplefilter("ignore", FutureWarning)
                self._wrapped = DistributedDataParallel(self._network, broadcast_buffers=False)
            self._network = self._wrapped
        if self.config.compile:
            self._network = torch.compile(self._network)  # type: ignore[assignment]

    @property
    def validated(self) -> nn.Module:
        """The network that is validated, drawn from and kept as the best: the averaged one, where there is one."""
        return self.model if self.averaged is None else self.averaged.model

    @property
    def resize_to(self) -> int:
        """The shorter side of an image in validation, before the crop, in pixels."""
        return self.val_loader.recipe.resize_to or self.config.image_size

    def autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.amp == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.amp != "off")

    def train_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Take the next step of the epoch under way. Together.

        In a profiler's trace its parts are the ranges "loader", "model" and "optimizer"; within "model" the stage names
        its own.

        Args:
            batches: the loader's, from the first that belongs to this step on.

        Returns:
            The losses by the meter's names, 0-dim, of this process's images in the last part of the step.
        """
        self.world.share_buffers(self.model)
        self.guard.begin()
        images = min(self.config.batch_size, len(self.train_loader.dataset) - self.step * self.config.batch_size)
        parts = math.ceil(images / (self.config.batch_size // self.config.accumulate))
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(parts):
            with record_function("loader"):
                batch = next(batches, None)
            count = 0 if batch is None else len(batch.labels)
            if batch is None:  # fewer images are left than there are processes; gradients are shared all the same
                batch = empty_batch(self.train_loader)
            with record_function("model"), self._shared(last=part + 1 == parts):
                with self.autocast():
                    losses = self.losses(batch, counted=count > 0)
                at = {"epoch": self.epoch + 1, "step": self.step + 1}
                loss = self.guard.watched(losses["loss"], batch.indices[:count], **at)
                # Each loss is a mean over its images, and DistributedDataParallel takes the mean over the processes.
                self.scaler.scale(loss * (count * self.world.size / images)).backward()
            sums = [*(value * count for value in losses.values()), replaced_in(batch)]
            self.meter.add(sums, count, losses["loss"].detach().isfinite())
        with record_function("optimizer"):
            self._update()
        self.step += 1
        return losses

    def _update(self) -> None:
        """Of the weights, by the gradients that are there."""
        norm = None
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        self.guard.update(norm, self.scaler if self.scaler.is_enabled() else None)
        self.scaler.update()
        self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update(self.model)

    def _shared(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are shared between the processes by the backward pass of the last part of a step."""
        return nullcontext() if last or self._wrapped is None else self._wrapped.no_sync()

    def losses(self, batch: Batch, *, counted: bool = True) -> dict[str, Tensor]:
        """Those of a training step by the meter's names: "loss", with the graph, and its parts where it has some.

        Args:
            counted: the regions are measured.
        """
        if self.consistency is not None:
            losses, trace = losses_of(self.consistency, self.stage, self._network, batch)
        else:
            trace = self.stage.trace(self.model, batch.images, batch.labels, batch.augmented)
            losses = {"loss": self._loss(trace.inputs, trace.targets)}
        if counted:
            self._measure_regions(trace)
        return losses

    def _measure_regions(self, trace: StageTrace) -> None:
        size = (trace.inputs.shape[-2], trace.inputs.shape[-1])
        shares = None if trace.saliency is None else region_share(trace.saliency, trace.drawn, size)
        if shares is not None:
            self.regions.add([share.sum() for share in shares], len(shares[0]))

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The network's loss, and the weighted one of the early head where there is one."""
        cross_entropy = functools.partial(F.cross_entropy, label_smoothing=self.config.label_smoothing)
        if self.with_head is None:
            return cross_entropy(self._network(inputs), targets)
        logits, early = self._network(inputs)
        return cross_entropy(logits, targets) + self.config.early_weight * cross_entropy(early, targets)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors and plain types. Together."""
        of_this_process = {
            "stage": self.stage.state_dict(),
            "loader": self.train_loader.state_dict(),
            "random": checkpoint.random_state(),
            "meter": self.meter.state_dict(),
            "regions": self.regions.state_dict(),
            "loader_wait": self.loader_wait.read(),
        }
        return {
            "config": self.config.to_dict(),
            "classes": self.classes,
            "mean": self.train_loader.mean,  # of the normalisation, as is std
            "std": self.train_loader.std,
            "resize_to": self.resize_to,
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.model.state_dict(),
            "early_head": None if self.with_head is None else self.with_head.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": self.world.gather(of_this_process),
            "progress": {
                "epoch": self.epoch,
                "step": self.step,
                "seconds": self.seconds,
                "skipped": self.guard.skipped,
                "best": self.best,
            },
        }

    def best_state_dict(self) -> dict[str, Any]:
        """What is kept of the network that validated best."""
        return {
            "config": self.config.to_dict(),
            "classes": self.classes,
            "mean": self.train_loader.mean,
            "std": self.train_loader.std,
            "resize_to": self.resize_to,
            "model": self.validated.state_dict(),
            "epoch": self.epoch,
            "val_top1": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            UserError: the images have changed since, or there are more processes or fewer.
        """
        if len(state["processes"]) != self.world.size:
            raise UserError(
                f"cannot resume: the checkpoint is of {len(state['processes'])} process(es), and {self.world.size} are"
                " running. Each goes on with its own share of the images: start as many (torchrun --nproc-per-node)"
            )
        if self.classes != state["classes"]:
            raise UserError(
                f"cannot resume: the run was begun on {len(state['classes'])} classes,"
                f" {self.train_loader.dataset.root} has {len(self.classes)}"
                f"{_first_difference(state['classes'], self.classes)}"
            )
        own = state["processes"][self.world.rank]
        try:
            self.train_loader.load_state_dict(own["loader"])
        except ValueError as error:
            raise UserError(f"cannot resume: {error}") from error
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.model.load_state_dict(state["averaged"])
        if self.with_head is not None:
            self.with_head.classifier.load_state_dict(state["early_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.stage.load_state_dict(own["stage"])
        self.meter.load_state_dict(own["meter"])
        self.regions.load_state_dict(own["regions"])
        self.loader_wait.seconds = own["loader_wait"]
        self.guard = self._make_guard()
        self.epoch, self.step, self.seconds, self.guard.skipped, self.best = (
            state["progress"][name] for name in ("epoch", "step", "seconds", "skipped", "best")
        )
        checkpoint.set_random_state(own["random"])


def _first_difference(before: list[str], now: list[str]) -> str:
    names = sorted(set(before) ^ set(now))
    return f"; {names[0]!r} is in one of them alone" if names else ", in another order"
