"""What a run trains, and on what: the seam between the engine, which is the same for all runs, and the tasks."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.optim import Optimizer

from pipelines import Dataset
from train.config.options import TASKS, of_name
from train.config.run import ResolvedRun, RunConfig
from train.distributed import ALONE, World
from train.engine.network import Network
from train.engine.objective import Objective
from train.models.published import Source


class Validation(Protocol):
    """One validation: the engine gives it each batch, within autocast, and then asks for its values."""

    def add(self, batch: Any) -> None:
        """Pass a batch through the validated network. Does not wait for the device, as far as the measures permit."""

    def values(self) -> dict[str, float]:
        """Return the values for the log, whose names begin with "val_". Together."""
        ...


class Task(Protocol):
    """The loaders, the network, the objective and the metrics of one run, built for its configuration.

    A batch of the loaders has `indices`, the samples' places in the data set, (B,) int64, and `replaced`, the places of
    the samples that were replaced. The constructor takes `config` and `world`, and makes the loaders alone: the engine
    seeds the global generators between that and :meth:`make_network`.

    Attributes:
        train_loader, val_loader: with the manners of :class:`pipelines.ImageLoader`: iteration, `len()`, `set_epoch`,
            `state_dict`, `load_state_dict`, `dataset`, `batch_size`, `device`.
        classes: names of the classes.
        datasets: by what messages call them, the data sets whose files a resumed run compares with the checkpoint's.
        metric: the validation's value of which the greatest is the best, such as "val_top1". At least 0.
    """

    train_loader: Any
    val_loader: Any
    classes: list[str]
    datasets: Mapping[str, Dataset]
    metric: str

    @classmethod
    def prepare(cls, config: Any) -> None:
        """Generate the embedded data where the configuration uses it: in one process, before all others."""

    @classmethod
    def read_source(cls, config: Any, stated: Collection[str], world: World = ALONE) -> Source | None:
        """Return the weights that a new run starts from; None: random ones. Together.

        The configuration's model becomes theirs, where it is known and not stated.

        Args:
            stated: names of the options that are stated.

        Raises:
            UserError: they cannot be fetched or read.
        """
        return None

    @classmethod
    def resolve(cls, config: Any, source: Any = None, world: World = ALONE) -> ResolvedRun:
        """Return a checked configuration with the defaults that the data decides. Together.

        Args:
            source: the weights to start from, see `train.engine.start`; None: random ones.
            world: the processes, of which the main one prints.

        Raises:
            UserError, DataError: the data cannot be used, or an option is impossible with it.
        """
        ...

    def epoch_images(self) -> int:
        """Return the number of training images in an epoch, over all processes: by default, all of them once."""
        return len(self.train_loader.dataset)

    def make_network(self) -> Network:
        """Build the network, on the loaders' device."""
        ...

    def make_objective(self, network: Network, steps: int) -> Objective:
        """Build the objective, for epochs of `steps` steps."""
        ...

    def make_optimizer(self, network: Network) -> Optimizer:
        """Build the optimizer of all that is trained."""
        ...

    def check(self, network: Network) -> list[str]:
        """Try the network before the first step, and return warnings. Together.

        Raises:
            UserError: the network cannot take the images.
        """
        ...

    def empty_batch(self) -> Any:
        """Return a batch without an image, in form, for a process that has none left while others have some."""
        ...

    def start_validation(self, network: Network) -> Validation:
        """Return a new validation of the network in its validated form, in eval mode."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what one must know to use the weights, besides configuration and classes: at least "mean", "std"."""
        ...

    def describe(self, network: Any, objective: Any) -> list[str]:
        """Return lines for the screen: what is trained how, and on which images."""
        ...

    def draw(self, network: Any, objective: Any, path: Path) -> None:
        """Write a picture of what the network is trained on as PNG. Changes nothing of the run."""
        ...


def task_of(config: RunConfig) -> type[Any]:
    """Return the task of a configuration."""
    return of_name(TASKS[config.task][1])
