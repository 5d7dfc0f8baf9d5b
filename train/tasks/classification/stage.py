"""The saliency stage of a configuration, for training and for the programs that draw and measure."""

from typing import Any

import torch
from torch import Tensor, nn

from dali_salaug import METHODS, SaliencyMemory, SaliencyStage, saliency_map
from dali_salaug.remembering import MEMORY, layer_of
from dali_salaug.saliency.maps import COMPILED
from train.config import Config, ResolvedConfig
from train.engine.network import Network
from train.errors import UserError


def check_cuda_graph(config: ResolvedConfig, device: torch.device) -> None:
    """Raise UserError where a CUDA graph is asked for on a device without."""
    if config.cuda_graph and device.type != "cuda":
        raise UserError(f"--cuda-graph needs a GPU; the run is on the {device.type}. Use --no-cuda-graph")


def live_map(model: nn.Module, images: Tensor, labels: Tensor, config: ResolvedConfig, seed: int) -> Tensor:
    """Return the maps (B, h, w) of images, normalised, as the options of a run have them; its method may use none.

    Args:
        seed: of SmoothGrad's noise, which is the same at each call.
    """
    how: dict[str, Any] = {"method": config.live_saliency, "target": config.saliency_target}
    how["generator"] = torch.Generator(images.device).manual_seed(seed)
    try:
        return saliency_map(model, images, labels, scale=config.saliency_scale, **how)
    except ValueError:  # the model takes no smaller images, which a method without a map does not need
        return saliency_map(model, images, labels, scale=1.0, **how)


def make_stage(config: ResolvedConfig, num_classes: int, seed: int, **options: Any) -> SaliencyStage:
    """Build the stage of a configuration; `options` as of :class:`SaliencyStage`.

    Without the option `memory`, the maps are those of the live model.

    Raises:
        UserError: the method cannot take images of the configured size.
    """
    method = METHODS[config.method].build(num_classes, region_size=config.region_size, tau=config.tau)
    size, side = config.size, min(config.size)
    if config.region_size > side:  # also where the method has no region, for pictures are drawn beside Cutout
        raise UserError(f"--region-size must be at most --image-size, {side}; got {config.region_size}")
    try:  # with one image, before anything is trained
        method.draw(torch.zeros(1, 3, *size), torch.zeros(1, *size), torch.Generator())
    except ValueError as error:
        raise UserError(f"--method {config.method} at --image-size {config.size_in_words}: {error}") from error
    return SaliencyStage(
        method,
        saliency=config.saliency if "memory" in options else config.live_saliency,
        scale=config.saliency_scale,
        target=config.saliency_target,
        seed=seed,
        **options,
    )


def training_stage(
    config: ResolvedConfig, network: Network, num_classes: int, seed: int, *, samples: int | None = None
) -> SaliencyStage:
    """Build the stage as training uses it: with warm-up, and with the network's early head where it has one.

    Args:
        samples: number of samples that a memory keeps, where the maps are remembered; None: they are the live model's.

    Raises:
        UserError: as `make_stage`; or the model has no such layer for the memory.
    """
    if config.saliency == MEMORY and samples is not None:
        memory = SaliencyMemory(
            samples, grid=config.memory_grid, share=config.memory_share, max_age=config.memory_max_age
        )
        layer = None if config.memory_layer == Config.memory_layer else config.memory_layer
        try:
            layer_of(network.model, layer)
        except ValueError as error:
            raise UserError(f"--memory-{error}".replace("None", Config.memory_layer, 1)) from error
        return make_stage(config, num_classes, seed, warmup_epochs=config.warmup_epochs, memory=memory, layer=layer)
    # A graph replays the pass as it is; compiled, it would have little less to launch.
    compiled = config.compile and config.saliency in COMPILED and not config.cuda_graph
    options = {"warmup_epochs": config.warmup_epochs, "head": network.early, "compiled": compiled}
    return make_stage(config, num_classes, seed, cuda_graph=config.cuda_graph, **options)
