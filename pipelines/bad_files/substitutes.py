"""Other samples in place of those that cannot be decoded."""

import logging
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import draws
from ..datasets import Dataset
from ..readers.base import DataError
from .probe import fault, reason

CANDIDATES = 16  # samples tried in place of one
SHOWN = 5  # names of bad files in a message
_log = logging.getLogger(__name__)


class Substitutes:
    """Decides which sample is given at a position, and keeps count.

    That is a function of (seed, epoch, position) and the files alone: the sample that the order has there, if it can be
    decoded in the crop drawn for the position, else the first of the position's candidates that can be. Which files are
    known to be bad decides only which are looked at before the pipeline stumbles on them; so a resumed run and other
    numbers of processes give the same samples, and a file that is mended is given again.

    Args:
        probe: Whether sample i at a position of an epoch can be decoded: (epoch, position, i) → bool.
        seed: Of the candidates.
        train: Validation has the same candidates in every epoch.
        replace: Whether bad files are replaced; else the first is an error.
        max_share: Of an epoch's samples that may be replaced, from 0 to 1.
        samples: Of this process in an epoch.

    Attributes:
        known: The reason, by the place in the data set, of the files found bad so far.
        replaced: Number of samples of the epoch under way that others were given for.
    """

    def __init__(
        self,
        dataset: Dataset,
        probe: Callable[[int, int, int], bool],
        *,
        seed: int,
        train: bool,
        replace: bool,
        max_share: float,
        samples: int,
    ) -> None:
        self._dataset = dataset
        self._probe = probe
        self._seed = seed
        self._train = train
        self._replace = replace
        self._max_share = max_share
        self._samples = samples
        self.known: dict[int, str] = {}
        self.replaced = 0

    def choose(self, epoch: int, start: int, indices: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """The samples to give at the positions from `start` on, where the order has `indices`; and which are replaced.

        Raises:
            DataError: None of a position's candidates can be decoded.
        """
        if not self.known:
            return indices, ()
        chosen, replaced = indices.copy(), []
        for place, index in enumerate(indices.tolist()):
            if index in self.known:
                chosen[place] = self._choose_one(epoch, start + place, index)
                if chosen[place] != index:
                    replaced.append(index)
        return chosen, tuple(replaced)

    def _choose_one(self, epoch: int, position: int, index: int) -> int:
        place = (epoch if self._train else 0, draws.SUBSTITUTE, position, 1, CANDIDATES)
        candidates = draws.uniforms(self._seed, *place)[0] * len(self._dataset)
        for candidate in (index, *candidates.astype(np.int64).tolist()):
            if self._probe(epoch, position, candidate):
                return candidate
            self._note(candidate)
        raise DataError(
            f"none of {CANDIDATES} samples tried in place of '{self._dataset.name(index)}' can be decoded. "
            + self._summary()
        )

    def find(self, epoch: int, start: int, indices: np.ndarray) -> bool:
        """Looks for bad files among the samples of a batch that the pipeline failed on, and remembers them.

        Returns:
            Whether there are any.

        Raises:
            DataError: There is one, and it is not to be replaced.
        """
        found = False
        for position, index in enumerate(indices.tolist(), start=start):
            if not self._probe(epoch, position, index):
                found = True
                self._note(index)
        return found

    def count(self, replaced: int) -> None:
        """Counts what was replaced in a batch that is given.

        Raises:
            DataError: It is more than the share of the epoch that may be.
        """
        self.replaced += replaced
        if replaced and self.replaced > self._max_share * self._samples:
            raise DataError(
                f"{self.replaced} of this process's {self._samples} samples of an epoch cannot be decoded so far, more "
                f"than the share of {self._max_share:g} that may be replaced (--max-bad-share). " + self._summary()
            )

    def _note(self, index: int) -> None:
        if index in self.known:
            return
        why = reason(self._dataset, index)
        if not self._replace:
            raise fault(self._dataset, index, why)
        self.known[index] = why
        _log.warning("bad file '%s', replaced by another sample: %s", self._dataset.name(index), why)

    def _summary(self) -> str:
        names = [f"'{self._dataset.name(index)}' ({why})" for index, why in list(self.known.items())[:SHOWN]]
        more = f" and {len(self.known) - SHOWN} more" if len(self.known) > SHOWN else ""
        root = shlex.quote(self._dataset.root)
        return f"Bad files: {', '.join(names)}{more}. To find them all: python -m train check-data {root}"

    def state_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return {"known": [list(item) for item in self.known.items()], "replaced": self.replaced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.known = dict(state["known"])
        self.replaced = state["replaced"]
