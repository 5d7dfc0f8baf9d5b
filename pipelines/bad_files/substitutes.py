"""Samples that replace those that cannot be decoded."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import draws
from ..arguments import refuse, require, whole
from ..datasets import Dataset
from ..names import printable
from ..options import LoaderOptions
from ..readers.base import DataError
from .probe import fault, reason

CANDIDATES = 16  # samples tried as the replacement of one
SHOWN = 5  # names of bad files in a message
_log = logging.getLogger(__name__)


class Substitutes:
    """Decides which sample is used at a position, and counts the replacements.

    The sample is a function of (seed, epoch, position) and the files alone: the one that the order has there, if it can
    be decoded in the crop drawn for the position, else the first of the position's candidates that can be. Knowing a
    file to be bad only means that it is probed before the pipeline fails on it. So a resumed run and other numbers of
    processes use the same samples, and a file that is repaired is used again.

    Args:
        dataset: The images.
        options: Of the loader. In validation, a position's candidates are drawn alike in every epoch.
        spares: Returns samples that may replace others in an epoch, by numbers in [0, 1): (epoch, (n,)) → (n,) int64.
        max_pixels: Of an image that may be decoded.

    Attributes:
        probe: Returns whether sample i at a position of an epoch can be decoded: (epoch, position, i) → bool.
        known: The reason, by the place in the data set, for each file found bad so far.
        replaced: Number of samples replaced in the current epoch.
    """

    probe: Callable[[int, int, int], bool]

    def __init__(
        self,
        dataset: Dataset,
        options: LoaderOptions,
        spares: Callable[[int, np.ndarray], np.ndarray],
        *,
        max_pixels: int,
    ) -> None:
        self._dataset = dataset
        self._options = options
        self._spares = spares
        self._max_pixels = max_pixels
        self.known: dict[int, str] = {}
        self.replaced = 0

    def choose(self, epoch: int, positions: range, indices: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return the samples to use at positions where the order has `indices`, and which are replaced.

        Raises:
            DataError: None of a position's candidates can be decoded.
        """
        if not self.known:
            return indices, ()
        chosen, replaced = indices.copy(), []
        for place, (position, index) in enumerate(zip(positions, indices.tolist(), strict=True)):
            if index in self.known:
                chosen[place] = self._choose_one(epoch, position, index)
                if chosen[place] != index:
                    replaced.append(index)
        return chosen, tuple(replaced)

    def _choose_one(self, epoch: int, position: int, index: int) -> int:
        place = (epoch if self._options.train else 0, draws.SUBSTITUTE, position, 1, CANDIDATES)
        candidates = self._spares(epoch, draws.uniforms(self._options.seed, *place)[0])
        for candidate in (index, *candidates.tolist()):
            if self.probe(epoch, position, candidate):
                return candidate
            self._note(candidate)
        raise DataError(
            f"none of {CANDIDATES} samples tried in place of '{self._name(index)}' can be decoded. " + self._summary()
        )

    def find(self, epoch: int, positions: range, indices: np.ndarray) -> bool:
        """Find the bad files among the samples of a batch that the pipeline failed on, and remember them.

        Returns:
            Whether there are any.

        Raises:
            DataError: There is one, and bad files are not replaced.
        """
        found = False
        for position, index in zip(positions, indices.tolist(), strict=True):
            if not self.probe(epoch, position, index):
                found = True
                self._note(index)
        return found

    def count(self, replaced: int, samples: int) -> None:
        """Count the samples replaced in a batch that is returned, of this process's `samples` in the epoch.

        Raises:
            DataError: More samples of the epoch are replaced than `max_bad_share` allows.
        """
        self.replaced += replaced
        share = self._options.max_bad_share
        if replaced and self.replaced > share * samples:
            raise DataError(
                f"{self.replaced} of this process's {samples} samples of an epoch cannot be decoded so far, more "
                f"than the share that may be replaced, max_bad_share={share:g}. " + self._summary()
            )

    def _note(self, index: int) -> None:
        if index in self.known:
            return
        why = reason(self._dataset, index, self._max_pixels)
        if not self._options.replace_bad_files:
            raise fault(self._dataset, index, why)
        self.known[index] = str(why)
        _log.warning("bad file '%s', replaced by another sample: %s", self._name(index), why)

    def _name(self, index: int) -> str:
        return printable(self._dataset.name(index))

    def _summary(self) -> str:
        names = [f"'{self._name(index)}' ({why})" for index, why in list(self.known.items())[:SHOWN]]
        more = f" and {len(self.known) - SHOWN} more" if len(self.known) > SHOWN else ""
        return f"Bad files: {', '.join(names)}{more}. To find them all: check_files in pipelines.bad_files.check."

    def state_dict(self) -> dict[str, Any]:
        """Return the known bad files and the count, in JSON types."""
        return {"known": [list(item) for item in self.known.items()], "replaced": self.replaced}

    def check_state(self, state: object) -> None:
        """Raise ValueError if `state` is not what `state_dict` of such a loader returned."""
        legal = "{'known': [[place, reason], …], 'replaced': count}"
        if not (isinstance(state, dict) and isinstance(state.get("known"), list)):
            refuse("bad_files of the state", state, legal)
        whole("replaced of the state's bad_files", state.get("replaced"), 0)
        for item in state["known"]:
            is_item = isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], str)
            require("bad_files of the state", item, legal, is_item)
            whole("place of a bad file of the state", item[0], 0, len(self._dataset) - 1)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.known = dict(state["known"])
        self.replaced = state["replaced"]
