"""A trial of the network before the first step: does it take the images, a single one too, and in what memory."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_salaug import SaliencyConsistency, WithEarlyHead
from pipelines.loading.loader import PREFETCH
from train.config import ResolvedConfig
from train.distributed import World
from train.engine import checkpoint
from train.engine.memory import free_memory, is_out_of_memory, out_of_memory
from train.engine.network import Network
from train.errors import UserError, first_line
from train.models.layers import set_training
from train.models.sizes import SIDES, takes
from train.tasks.classification.objective import make_consistency
from train.tasks.classification.stage import make_stage

MARGIN = 0.9  # share of the free memory that a step may need without a warning


def sizes_of_parts(config: ResolvedConfig, images: int, world: World) -> tuple[int, int]:
    """Return the images that a process passes through the network at once: in a full step, and the fewest in an epoch.

    A process without an image in the last part of the last step takes two black ones, see `empty_batch`.
    """
    full = config.step_images // world.size // config.accumulate
    last = images % (full * world.size)  # in all processes together
    if not last or config.drop_last:
        return full, full
    each, more = divmod(last, world.size)
    return full, each or (1 if more else 2)


def check_network(config: ResolvedConfig, network: Network, num_classes: int, images: int, world: World) -> list[str]:
    """Try a forward and backward pass, and a saliency map where the method uses one, on a copy of the network.

    Neither the network nor the random state changes.

    Args:
        num_classes: K.
        images: number of training images.

    Returns:
        A warning, where a step needs more memory than is free.

    Raises:
        UserError: the network cannot take the images, or a single image that an epoch ends with.
    """
    with _untouched_random_state():
        saved = _try(config, network, num_classes)
        full, least = sizes_of_parts(config, images, world)
        if config.passed(min(full, least)) == 1:  # else others go with it
            try:
                _pass(config, network, num_classes, 1, make_consistency(config))
            except Exception as error:
                raise _single_image(error, config, images, world, full) from error
    at_once = config.passed(min(full, math.ceil(images / world.size)))
    step = config.loaded(min(config.step_images, images))
    return _memory_warning(config, network, saved // 2 * at_once, step, world)


@contextmanager
def _untouched_random_state() -> Iterator[None]:
    state = checkpoint.random_state()
    try:
        yield
    finally:
        checkpoint.set_random_state(state)


def _copy(network: Network) -> nn.Module:
    return set_training(copy.deepcopy(network.module), frozen_trunk=network.frozen_trunk)


def _try(config: ResolvedConfig, network: Network, num_classes: int) -> int:
    """Return the bytes that the backward pass of two images keeps; raise UserError where the network fails."""
    device = next(network.model.parameters()).device
    model, size, consistency = config.model, config.size_in_words, make_consistency(config)

    def cannot_train(error: Exception) -> str:
        fitting = next((s for s in _by_distance(config.size) if takes(network.model, (s, s))), None)
        other = f" (it takes {fitting})" if fitting else ""
        return (
            f"--model {model} cannot be trained on images of --image-size {size}: {first_line(error)}. Choose another"
            f" --image-size{other} or another --model"
        )

    def no_consistency(error: Exception) -> str:
        return (
            f"--consistency cannot be computed for --model {model} at --image-size {size} and --consistency-scale"
            f" {config.consistency_scale:g}: {_cause(error)}. Choose another --consistency-scale, a GAMMA of 0, or"
            " another --model"
        )

    def no_map(error: Exception) -> str:
        larger = ", a larger --saliency-scale such as 1" if config.saliency_scale < 1 else ""
        return (
            f"--method {config.method} needs a saliency map, which --model {model} does not give at --image-size {size}"
            f" and --saliency-scale {config.saliency_scale:g}: {_cause(error)}. Choose another --image-size{larger},"
            " another --saliency, --model or --method"
        )

    with _explained(cannot_train, config, device):
        saved = _pass(config, network, num_classes, 2, None)
    if consistency is not None:
        with _explained(no_consistency, config, device):
            saved = max(saved, _pass(config, network, num_classes, 2, consistency))
    with _explained(no_map, config, device):
        _map(config, network, num_classes)
    return saved


@contextmanager
def _explained(explain: Callable[[Exception], str], config: ResolvedConfig, device: torch.device) -> Iterator[None]:
    """Turn an error into a UserError with its explanation, or into that of a lack of memory."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, config, device) from error
        raise UserError(explain(error)) from error


def _pass(
    config: ResolvedConfig,
    network: Network,
    num_classes: int,
    count: int,
    consistency: SaliencyConsistency | None,
) -> int:
    """Take the forward and backward pass of a training step; return the bytes that are kept between the two.

    Args:
        network: of which a copy takes them.
        count: number of images.
        consistency: the loss, in place of cross-entropy.
    """
    images, labels = _batch(network, num_classes, config.size, count)
    module = _copy(network)
    dtype = torch.float16 if config.amp == "float16" else torch.bfloat16
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast(images.device.type, dtype, enabled=config.amp != "off"):
            if consistency is not None:
                loss = consistency(module, images, images, labels)[0]
            else:
                outputs = module(images)
                losses = [_cross_entropy(logits, labels, num_classes) for logits in network.logits(outputs)]
                loss = torch.stack(losses).sum()
        loss.backward()
    return sum(kept.values())


def _cross_entropy(logits: object, labels: Tensor, num_classes: int) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(f"its output is a {type(logits).__name__}, not a tensor of logits")
    if logits.shape != (len(labels), num_classes):
        raise ValueError(f"its output has the shape {tuple(logits.shape)}, not {(len(labels), num_classes)}")
    return F.cross_entropy(logits, labels)


def _map(config: ResolvedConfig, network: Network, num_classes: int) -> None:
    """Pass two images through the stage, which makes the saliency map and draws."""
    images, labels = _batch(network, num_classes, config.size, 2)
    module = _copy(network)
    early = module.early if isinstance(module, WithEarlyHead) else None
    stage = make_stage(config, num_classes, 0, warmup_epochs=0, head=early)
    stage.trace(module.model if isinstance(module, WithEarlyHead) else module, images, labels, images)


def _batch(network: Network, num_classes: int, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    device = next(network.model.parameters()).device
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % num_classes
    return images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device)


def _by_distance(size: tuple[int, int]) -> list[int]:
    """Return the usual sides of square images, the closest to a square's first; none for other images."""
    side = size[0]
    return sorted((other for other in SIDES if other != side), key=lambda other: abs(other - side)) * (side == size[1])


def _cause(error: BaseException) -> str:
    """Return the first line of what the network said, without what this project made of it."""
    return first_line(error.__cause__ or error)


def _single_image(error: Exception, config: ResolvedConfig, images: int, world: World, full: int) -> UserError:
    parts = f" over {world.size} processes in {config.accumulate} part(s)" if world.size * config.accumulate > 1 else ""
    if full == 1:
        which, remedy = "each part of a step", "raise --batch-size, or lower --accumulate or the number of processes"
    else:
        which, remedy = "the last batch of an epoch", "leave it out with --drop-last, or choose another --batch-size"
    return UserError(
        f"{which} has one image ({images} training images, --batch-size {config.batch_size}{parts}), on which --model"
        f" {config.model} cannot be trained at --image-size {config.size_in_words}: {first_line(error)}; {remedy}"
    )


def _loaded(config: ResolvedConfig, images: int, world: World) -> int:
    """Return the bytes of the batches that the loader makes ahead, and of the one in use; not those of decoding.

    Of small images it makes more, of a hundred megabytes at most.
    """
    part = math.ceil(images / world.size / config.accumulate)
    of_each = 2 if config.policy is not None else 1
    return (PREFETCH + 1) * part * of_each * 3 * 4 * math.prod(config.size)


def _memory_warning(config: ResolvedConfig, network: Network, activations: int, images: int, world: World) -> list[str]:
    """Compare what a step of that many images needs, beyond the weights that are there already, with what is free."""
    device = next(network.model.parameters()).device
    trained = sum(p.numel() * p.element_size() for p in network.module.parameters() if p.requires_grad)
    need = activations + (2 if config.optimizer == "sgd" else 3) * trained  # gradients and their averages
    need += _loaded(config, images, world)
    if device.type == "cpu":
        need *= world.local_size
    free = free_memory(device)
    if free is None or need <= MARGIN * free:
        return []
    return [
        f"a step of {images} images of {config.size[0]}×{config.size[1]} needs about"
        f" {need / 1e9:.1f} GB of memory on {device}, where {free / 1e9:.1f} GB are free. The system may kill the run"
        " without a message: lower --batch-size or --image-size, or split the step with --accumulate"
    ]
