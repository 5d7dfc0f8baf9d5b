"""What the pipeline receives for a batch: the samples, and every number that decides what happens to them."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import draws
from .datasets import Dataset
from .geometry import in_short
from .graph.pipeline import Recipe
from .options import LoaderOptions
from .policies.operations import compose, mirrored

PADDING = 4  # pixels, of pad-and-crop
# Fields of a recipe that are not in `configuration`: they do not change the pixels, follow from the policy, or
# are in `resize_to`.
_LEFT_OUT = {
    "device", "operations", "chains", "stages", "with_matrices", "with_views", "max_pixels", "hw_decoder_load",
    "decode_size_hint", "stored", "val_resize", "crop_pct", "vertical_flip",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Inputs:
    """Makes the arrays that the pipeline of `recipe` takes, by their names in `Recipe.inputs`."""

    dataset: Dataset
    recipe: Recipe
    options: LoaderOptions

    def __call__(self, epoch: int, start: int, indices: np.ndarray) -> dict[str, Any]:
        """Return the arrays for the samples `indices`, (B,) int64, at the positions from `start` on of an epoch."""
        recipe, options, count = self.recipe, self.options, len(indices)

        def uniforms(stream: int, width: int) -> np.ndarray:
            return draws.uniforms(options.seed, epoch, stream, start, count, width)

        arrays: dict[str, Any] = {
            "index": indices,
            "image": self.dataset.reader.inputs(indices, self.recipe.max_pixels),
        }
        arrays["flip"] = np.zeros(count, dtype=np.int32)
        if options.train:
            numbers = uniforms(draws.VIEW, draws.VIEW_UNIFORMS)
            probabilities = options.horizontal_flip, options.vertical_flip
            arrays["flip"], arrays["vertical_flip"] = draws.flips(numbers, probabilities)
            arrays["offset"] = draws.pad_offsets(numbers, PADDING)
            if recipe.crop == "random_resized":
                windows = draws.random_resized_windows(numbers, options.crop_scale, recipe.ratio)
                arrays["sides"], arrays["positions"] = windows
        if recipe.color_jitter:
            numbers = uniforms(draws.JITTER, len(draws.JITTER_FACTORS))
            arrays |= draws.jitter_factors(numbers, recipe.color_jitter)
        if options.policy is not None:
            drawn = options.policy.draw(uniforms(draws.POLICY, options.policy.uniforms), recipe.image_size)
            # The pipeline turns images upside down first, but mirrors them left to right last, once for both outputs.
            # Seen in the mirror, the drawn geometry then acts on the mirrored image, as if that flip had come first
            # too; the other operations do not see it.
            matrices = mirrored(drawn.matrices, arrays["flip"], recipe.image_size[1])
            for stage in range(recipe.chains * recipe.stages):
                arrays[f"operation{stage}"] = drawn.operations[:, stage]
                arrays[f"amount{stage}"] = drawn.parameters[:, stage, 0]
                arrays[f"kernel{stage}"] = drawn.parameters[:, stage].reshape(count, 3, 3)
                arrays[f"matrix{stage}"] = matrices[:, stage]
                arrays[f"window{stage}"] = arrays[f"factors{stage}"] = drawn.parameters[:, stage, :4]
            if drawn.weights is not None:
                arrays["weights"] = drawn.weights
            if recipe.with_matrices:
                arrays["total_matrix"] = compose(drawn.matrices)
        return arrays

    def configuration(self) -> dict[str, Any]:
        """Return all that decides which samples and pixels a batch holds, in JSON types.

        The device is not part of it, as a run may move to another machine; nor is the rank, as all ranks are at the
        same batch.
        """
        names = (field.name for field in fields(Recipe) if field.name not in _LEFT_OUT)
        recipe = {name: getattr(self.recipe, name) for name in names}
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in recipe.items()},
            "image_size": in_short(self.recipe.image_size),
            "resize_to": None if self.recipe.resize_to is None else in_short(self.recipe.resize_to),
            "dataset": self.dataset.digest,
            "samples": len(self.dataset),
            "policy": repr(self.options.policy),
            "crop_scale": list(self.options.crop_scale),
            "horizontal_flip": self.options.horizontal_flip,
            "vertical_flip": self.options.vertical_flip,
            "train": self.options.train,
            "seed": self.options.seed,
            "batch_size": self.options.batch_size,
            "drop_last": self.options.drop_last,
            "world_size": self.options.world_size,
        }
