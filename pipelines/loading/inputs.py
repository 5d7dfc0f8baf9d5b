"""What the pipeline receives for a batch: the samples, and every number that decides what happens to them."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .. import draws
from ..datasets import Dataset
from ..graph import transform
from ..graph.crops import in_short
from ..graph.recipe import Recipe
from ..options import LoaderOptions
from ..policies.base import PolicyDraw
from ..policies.operations import compose, mirrored

# Fields of a recipe that are not in `configuration` as they are: they do not change the pixels, follow from the policy,
# are in `resize_to`, or are there by their `repr`.
_LEFT_OUT = {
    "device", "operations", "chains", "stages", "with_matrices", "with_views", "max_pixels", "hw_decoder_load",
    "decode_size_hint", "decode_region", "stored", "val_resize", "crop_pct", "vertical_flip", "before_policy",
    "after_policy", "fit",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Inputs:
    """Makes the arrays that the pipeline of `recipe` takes, by their names in `Recipe.inputs`."""

    dataset: Dataset
    recipe: Recipe
    options: LoaderOptions

    def begin(self, indices: np.ndarray) -> Callable[[], Any]:
        """Begin to read the images of the samples `indices`, (B,) int64; see `Reader.begin`."""
        return self.dataset.reader.begin(indices, self.recipe.max_pixels)

    def __call__(self, epoch: int, positions: range, indices: np.ndarray, images: Any) -> dict[str, Any]:
        """Return the arrays for the samples `indices`, (B,) int64, at these positions of an epoch.

        Args:
            images: What `begin` returned returns for them.
        """
        recipe, options, count = self.recipe, self.options, len(indices)

        def uniforms(stream: int, width: int, view: int = 0) -> np.ndarray:
            start, step = positions.start, positions.step
            return draws.uniforms(options.seed, epoch, stream, start, count, width, step=step, view=view)

        arrays: dict[str, Any] = {"index": indices, "image": images}
        arrays["flip"] = np.zeros(count, dtype=np.int32)
        if recipe.fit is not None:
            arrays["short_side"] = np.full(count, recipe.fit.short_sides[-1], dtype=np.int64)
        if options.train:
            numbers = uniforms(draws.VIEW, draws.VIEW_UNIFORMS)
            probabilities = options.horizontal_flip, options.vertical_flip
            arrays["flip"], arrays["vertical_flip"] = draws.flips(numbers, probabilities)
            arrays["offset"] = draws.pad_offsets(numbers, recipe.padding)
            if recipe.fit is not None:
                arrays["short_side"] = draws.choices(numbers, recipe.fit.short_sides)
            if recipe.crop == "random_resized":
                windows = draws.random_resized_windows(numbers, options.crop_scale, recipe.ratio)
                arrays["sides"], arrays["positions"] = windows
        if recipe.color_jitter:
            numbers = uniforms(draws.JITTER, len(draws.JITTER_FACTORS))
            arrays |= draws.jitter_factors(numbers, recipe.color_jitter)
        if options.policy is not None:
            for view in range(recipe.views):
                drawn = options.policy.draw(uniforms(draws.POLICY, options.policy.uniforms, view), recipe.image_size)
                arrays |= self._of_policy(drawn, arrays["flip"], view)
        if recipe.before_policy:
            numbers = uniforms(draws.BEFORE_POLICY, transform.width(recipe.before_policy))
            arrays |= transform.draw(recipe.before_policy, numbers)
        if recipe.after_policy:
            for view in range(recipe.views):
                numbers = uniforms(draws.AFTER_POLICY, transform.width(recipe.after_policy), view)
                arrays |= transform.draw(recipe.after_policy, numbers, view)
        return arrays

    def _of_policy(self, drawn: PolicyDraw, flip: np.ndarray, view: int) -> dict[str, Any]:
        recipe, count = self.recipe, len(flip)
        # The pipeline turns images upside down first, but mirrors them left to right last, once for all outputs.
        # Seen in the mirror, the drawn geometry then acts on the mirrored image, as if that flip had come first too;
        # the other operations do not see it.
        matrices = mirrored(drawn.matrices, flip, recipe.image_size[1])
        arrays: dict[str, Any] = {}
        stages = recipe.chains * recipe.stages
        for stage in range(stages):
            at = view * stages + stage
            arrays[f"operation{at}"] = drawn.operations[:, stage]
            arrays[f"amount{at}"] = drawn.parameters[:, stage, 0]
            arrays[f"kernel{at}"] = drawn.parameters[:, stage].reshape(count, 3, 3)
            arrays[f"matrix{at}"] = matrices[:, stage]
            arrays[f"window{at}"] = arrays[f"factors{at}"] = drawn.parameters[:, stage, :4]
        if drawn.weights is not None:
            arrays[f"weights{view}"] = drawn.weights
        if recipe.with_matrices:
            arrays[f"total_matrix{view}"] = compose(drawn.matrices)
        return arrays

    def configuration(self) -> dict[str, Any]:
        """Return all that decides which samples and pixels a batch holds, in JSON types.

        The device is not part of it, as a run may move to another machine; nor are rank and number of ranks, as all
        ranks are at the same global batch.
        """
        names = (field.name for field in fields(Recipe) if field.name not in _LEFT_OUT)
        recipe, fit = {name: getattr(self.recipe, name) for name in names}, self.recipe.fit
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in recipe.items()},
            "image_size": in_short(self.recipe.image_size),
            "resize_to": None if self.recipe.resize_to is None else in_short(self.recipe.resize_to),
            "dataset": self.dataset.digest,
            "samples": len(self.dataset),
            "policy": repr(self.options.policy),
            "before_policy": [repr(placed.transform) for placed in self.recipe.before_policy],
            "after_policy": [repr(placed.transform) for placed in self.recipe.after_policy],
            "crop_scale": list(self.options.crop_scale),
            "horizontal_flip": self.options.horizontal_flip,
            "vertical_flip": self.options.vertical_flip,
            "train": self.options.train,
            "order": self.options.order.description,
            "seed": self.options.seed,
            "global_batch": self.options.world_size * self.options.batch_size,
            "drop_last": self.options.drop_last,
            **({} if fit is None else {"short_sides": list(fit.short_sides), "long_side": fit.long_side}),
        }
