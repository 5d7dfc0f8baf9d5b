"""What the pipeline is given for a batch: the samples, and every number that decides what happens to them."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from . import draws
from .datasets import Dataset
from .graph.pipeline import Recipe
from .policies.base import Policy
from .policies.operations import compose, mirrored

PADDING = 4  # pixels, of pad-and-crop
# Of a recipe, from `configuration`: what does not change the pixels that come out, or follows from the policy.
_LEFT_OUT = (
    "device", "operations", "chains", "stages", "with_matrices", "hw_decoder_load", "decode_size_hint",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Inputs:
    """Makes the arrays that the pipeline of `recipe` takes, as `Recipe.inputs` has them.

    The other attributes are as `image_loader` takes them.
    """

    dataset: Dataset
    recipe: Recipe
    policy: Policy | None
    crop_scale: tuple[float, float]
    train: bool
    seed: int

    def __call__(self, epoch: int, start: int, indices: np.ndarray) -> dict[str, Any]:
        """The arrays for the samples `indices` at the positions of an epoch from `start` on, by their names."""
        recipe = self.recipe
        count = len(indices)
        arrays: dict[str, Any] = {"index": indices, "image": self.dataset.reader.inputs(indices)}
        arrays["flip"] = np.zeros(count, dtype=np.int32)
        if self.train:
            numbers = draws.uniforms(self.seed, epoch, draws.VIEW, start, count, draws.VIEW_UNIFORMS)
            arrays["flip"] = draws.flips(numbers)
            arrays["offset"] = draws.pad_offsets(numbers, PADDING)
            if recipe.crop == "random_resized":
                arrays["sides"], arrays["positions"] = draws.random_resized_windows(
                    numbers, self.crop_scale, recipe.ratio
                )
        if recipe.color_jitter:
            numbers = draws.uniforms(self.seed, epoch, draws.JITTER, start, count, len(draws.JITTER_FACTORS))
            arrays |= draws.jitter_factors(numbers, recipe.color_jitter)
        if self.policy is not None:
            numbers = draws.uniforms(self.seed, epoch, draws.POLICY, start, count, self.policy.uniforms)
            drawn = self.policy.draw(numbers, recipe.image_size)
            # The pipeline mirrors last, once for both outputs. Seen in the mirror, the drawn geometry then
            # acts on the mirrored image, as if the flip had come first; the other operations do not see flips.
            matrices = mirrored(drawn.matrices, arrays["flip"], recipe.image_size)
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
        """All that decides which pixels a batch holds, in JSON types, save the device: a run may change machines."""
        recipe = {field.name: getattr(self.recipe, field.name) for field in fields(Recipe)}
        for name in _LEFT_OUT:
            del recipe[name]
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in recipe.items()},
            "dataset": self.dataset.digest,
            "samples": len(self.dataset),
            "policy": repr(self.policy),
            "crop_scale": list(self.crop_scale),
            "train": self.train,
            "seed": self.seed,
        }
