"""A training run: everything that its configuration builds, the training step, and the state for a checkpoint."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pipelines import Batch
from train.config.run import ResolvedRun
from train.data.marks import first_change, marks_of
from train.distributed import ALONE, World
from train.engine import checkpoint
from train.engine.bad_files import count_replaced
from train.engine.elastic import share_of
from train.engine.loader_wait import LoaderWait
from train.engine.metrics import Meter
from train.engine.nonfinite import NonFiniteGuard
from train.engine.schedule import doubtful_options, make_scheduler, steps_of_epoch
from train.engine.task import task_of
from train.errors import UserError

_REMEDY = (
    ". Restore the images, start a new run in another --out, or resume on the changed images with --accept-changed-data"
)


class Run:
    """A task in training: its loaders, network, objective, optimizer and schedule, and the progress.

    A step takes `config.step_images` images over all processes, each of which splits its share into `config.accumulate`
    parts, one after the other. The last step of an epoch takes those that are left, or does not exist with
    `config.drop_last`. Several processes take the same steps as a single one, with two exceptions: BatchNorm
    normalises each part of each process by itself, and each process has its own random draws in the stage.

    Args:
        config: resolved for its data.
        world: the processes that train together.

    Attributes:
        task: of the configuration.
        train_loader, val_loader, classes: of the task.
        network: the model with everything around it.
        objective: the losses of a batch.
        images: number of training images in an epoch, over all processes.
        steps: number of steps in an epoch.
        epoch: number of complete epochs, validated and logged.
        step: number of steps taken in the current epoch.
        seconds: time spent in the current epoch.
        meter: the training losses and the number of replaced images in the current epoch.
        measures: what the objective measured in the current epoch.
        loader_wait: how long the current epoch's steps waited for the loader, in this process.
        guard: against losses and gradients that are not finite.
        best: the best value of the task's metric so far; -1 before the first validation.
        warnings: sentences for the user, before the first step.
        marks: of the images, by the main process: for each data set of the task, see `marks_of`.

    Raises:
        UserError: the device, the model or the method does not fit the rest of the configuration or the images.
        DataError: the images cannot be used.
    """

    def __init__(self, config: ResolvedRun, world: World = ALONE) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: there is no usable CUDA device; legal are auto and cpu")
        self.config = config
        self.world = world
        self.task = task = task_of(config)(config, world)
        self.train_loader, self.val_loader, self.classes = task.train_loader, task.val_loader, task.classes
        self.device = self.train_loader.device
        self.marks = {name: marks_of(dataset) for name, dataset in task.datasets.items()} if world.is_main else {}
        self.images = task.epoch_images()
        self.steps = steps_of_epoch(config, self.images)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all steps have the same two image sizes

        checkpoint.seed_random_state(config.seed)  # all processes start from the same weights
        self.network = task.make_network()
        self.objective = task.make_objective(self.network, self.steps)
        self.optimizer = task.make_optimizer(self.network)
        self.scheduler = make_scheduler(config, self.optimizer, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "float16")
        self.warnings = task.check(self.network) + doubtful_options(config, self.images)
        if world.rank:  # dropout and the like differ between processes
            checkpoint.seed_random_state(config.seed + world.rank)

        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.best = -1.0
        self.reset_meters()
        self.guard = self._make_guard()

    @property
    def model(self) -> nn.Module:
        """The model alone, see :class:`Network`."""
        return self.network.model

    def reset_meters(self) -> None:
        """Start the measurements of an epoch."""
        self.meter = Meter((*self.objective.loss_names, "replaced"), self.device, self.world)
        self.measures = Meter(self.objective.measure_names, self.device, self.world)
        self.loader_wait = LoaderWait(self.device)

    def begin_epoch(self) -> None:
        """Prepare everything for the steps of the current epoch that are not done yet."""
        self.network.set_training()
        self.train_loader.set_epoch(self.epoch)
        self.objective.set_epoch(self.epoch)

    def end_epoch(self) -> None:
        """Count the current epoch as complete."""
        self.epoch, self.step, self.seconds, self.guard.skipped = self.epoch + 1, 0, 0.0, 0
        self.reset_meters()

    def autocast(self) -> torch.autocast:
        """Return the context of mixed precision, which `config.amp` enables."""
        dtype = torch.float16 if self.config.amp == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.amp != "off")

    def train_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Take the next step of the current epoch. Together.

        In a profiler's trace its parts are the ranges "loader", "model" and "optimizer"; within "model" the stage has
        ranges of its own.

        Args:
            batches: of the loader, from the first of this step on.

        Returns:
            The losses of this process's images in the last part of the step, 0-dim, by the objective's names.
        """
        self.world.broadcast_buffers(self.model)
        self.guard.begin()
        full = self.config.step_images
        images = min(full, self.images - self.step * full)
        parts = math.ceil(images / (full // self.config.accumulate))
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(parts):
            with record_function("loader"):
                batch = next(batches, None)
            count = 0 if batch is None else len(batch.indices)
            if batch is None:  # fewer images than processes are left; this one still takes part in sharing gradients
                batch = self.task.empty_batch()
            with record_function("model"), self.network.sync_gradients(part + 1 == parts):
                with self.autocast():
                    losses, measures = self.objective(batch)
                loss = self.guard.guarded(
                    losses["loss"], batch.indices[:count], epoch=self.epoch + 1, step=self.step + 1
                )
                # Each loss is a mean over its images, and DistributedDataParallel takes the mean over the processes.
                self.scaler.scale(loss * (count * self.world.size / images)).backward()
            sums = [*(value * count for value in losses.values()), count_replaced(batch)]
            self.meter.add(sums, count, losses["loss"].detach().isfinite())
            if measures and count:
                self.measures.add([values.sum() for values in measures.values()], count)
        with record_function("optimizer"):
            self._update()
        self.step += 1
        return losses

    def _update(self) -> None:
        """Update the weights by their gradients."""
        norm = None
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_grad)
        self.guard.update(norm, self.scaler if self.scaler.is_enabled() else None)
        self.scaler.update()
        self.scheduler.step()
        self.network.update_average()

    def _make_guard(self) -> NonFiniteGuard:
        action, scaled = self.config.on_nonfinite, self.scaler.is_enabled()
        return NonFiniteGuard(action, self.network.module, self.optimizer, scaled=scaled, world=self.world)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on: tensors and plain types. Together."""
        self.objective.exchange()
        of_this_process = {
            "objective": self.objective.state_dict(),
            "loader": self.train_loader.state_dict(),
            "random": checkpoint.random_state(),
            "meter": self.meter.state_dict(),
            "measures": self.measures.state_dict(),
            "loader_wait": self.loader_wait.read(),
        }
        return {
            **self._facts(),
            **self.network.state_dict(),
            "objective": self.objective.shared_state_dict(),
            "marks": self.marks,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": self.world.gather(of_this_process),
            "progress": self._progress(),
        }

    def _progress(self) -> dict[str, float]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.guard.skipped,
            "best": self.best,
        }

    def best_state_dict(self) -> dict[str, Any]:
        """Return what is kept of the network with the best validation, which is complete for use elsewhere."""
        return {
            **self._facts(),
            "model": self.network.validated.state_dict(),
            "epoch": self.epoch,
            self.task.metric: self.best,
        }

    def _facts(self) -> dict[str, Any]:
        """Return what one must know in order to use the weights."""
        return {"config": self.config.to_dict(), "classes": self.classes, **self.task.facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state` was taken. Together.

        Raises:
            UserError: the images changed in the meantime, or the state is malformed.
        """
        with checkpoint.reading(Path(self.config.out or "") / checkpoint.LAST):
            self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        if self.classes != state["classes"]:
            raise UserError(
                f"cannot resume: the run was started on {len(state['classes'])} classes,"
                f" {self.train_loader.dataset.root} has {len(self.classes)}"
                f"{_first_difference(state['classes'], self.classes)}"
            )
        before = len(state["processes"])
        own = share_of(state["processes"], self.world, self.objective.apart)
        if before != self.world.size:
            self.warnings.append(
                f"the checkpoint is of {before} process(es), and {self.world.size} are running: the images of each step"
                " are the same, the random numbers of the stage and of dropout are not"
            )
        accepted = self.config.accept_changed_data
        self.config.accept_changed_data = False  # for this start alone
        for name, part in {**self.network.state_dict(), "progress": self._progress()}.items():
            checkpoint.check_form(state[name], part, repr(name))
        checkpoint.check_form(state["scheduler"], self.scheduler.state_dict(), "'scheduler'")
        checkpoint.check_form(state["scaler"], self.scaler.state_dict(), "'scaler'")
        for name in ("meter", "measures"):
            checkpoint.check_form(own[name], getattr(self, name).state_dict(), repr(name))
        position = own["loader"]
        if accepted:
            here = self.train_loader.state_dict()["configuration"]
            images = {name: here[name] for name in ("dataset", "samples")}
            bad_files = position["bad_files"] | {"known": []}  # at places that others may have now
            position = position | {"configuration": position["configuration"] | images, "bad_files": bad_files}
        try:
            self.train_loader.load_state_dict(position)
        except ValueError as error:
            raise UserError(f"cannot resume: {error}{_REMEDY}") from error
        if not accepted:
            self._check_images(state["marks"])
        self.network.load_state_dict(state)
        self._load_optimizer(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.objective.load_state_dict(own["objective"], state["objective"])
        self.meter.load_state_dict(own["meter"])
        self.measures.load_state_dict(own["measures"])
        self.loader_wait.seconds = float(own["loader_wait"])
        self.guard = self._make_guard()  # of the restored state
        self.epoch, self.step, self.seconds, self.guard.skipped, self.best = (
            state["progress"][name] for name in ("epoch", "step", "seconds", "skipped", "best")
        )
        if accepted:  # of more or fewer images, an epoch may have another number of steps
            self.step = min(self.step, self.steps)
            self.scheduler.last_epoch = self.epoch * self.steps + self.step
        taken = self.epoch * self.steps + self.step
        if not (self.epoch >= 0 and 0 <= self.step <= self.steps and self.scheduler.last_epoch == taken):
            raise ValueError(f"its progress, epoch {self.epoch} and step {self.step}, is not that of its schedule")
        checkpoint.set_random_state(own["random"])

    def _check_images(self, marks: dict[str, Any]) -> None:
        """Raise UserError where the images are not those of the checkpoint. Together."""
        change = None
        if self.world.is_main:
            for name, dataset in self.task.datasets.items():
                found = first_change(marks[name], self.marks[name], dataset)
                change = change or (found and f"the {name} images have changed since the last checkpoint: {found}")
        change = self.world.broadcast(change)
        if change:
            raise UserError(f"cannot resume: {change}{_REMEDY}")

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        checkpoint.check_form(state["param_groups"], self.optimizer.state_dict()["param_groups"], "'optimizer'")
        self.optimizer.load_state_dict(state)
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if value is not None and not (isinstance(value, Tensor) and value.shape in ((), parameter.shape)):
                    raise ValueError(f"its {name!r} of the optimizer does not fit the weights")


def _first_difference(before: list[str], now: list[str]) -> str:
    names = sorted(set(before) ^ set(now))
    return f"; only one of them has {names[0]!r}" if names else ", in another order"
