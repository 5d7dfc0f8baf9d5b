"""The ways to the saliency loss's parameter gradient, by time and by agreement: python ways.py --help.

The gradient of ℓ(g), g = ∂f/∂x, in the parameters θ is d/dε ∂f/∂θ (x + εv) at 0, with v = ∂ℓ/∂g. Ways to it:

- exact: this library's, first-order kernels;
- double backward: PyTorch's own;
- forward over reverse: the directional derivative of ∂f/∂θ by dual numbers (torch.func.jvp);
- central difference: (∂f/∂θ (x + εv) − ∂f/∂θ (x − εv)) / 2ε, by two ordinary passes; with one ε, or one for each image,
  so that ε |v|∞, of the batch or the image, is a given part of the pixels' standard deviation.

All in training mode (BatchNorm by the batch), float32, of images and their mirror images. Agreement is the cosine with
the double backward in float64. Times are for the saliency loss alone, over those of a plain step (forward, backward) on
the same images and copies in the same turn.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp

from dali_salaug.consistency.map_geometry import carried_back, map_distance
from dali_salaug.consistency.second_order import TwiceDifferentiable
from pipelines import find_dataset, image_loader
from train.analysis.trained import load_best
from train.benchmarks.measuring import environment
from train.models.registry import build_model

STEPS = (1e-4, 1e-3, 1e-2, 1e-1)


def saliency_loss(gradient, size, matrices):
    own, other = gradient.abs().amax(1).chunk(2)
    other, view = carried_back(other, matrices, size)
    return map_distance(own, other, view)


def label_logits(logits, labels):
    return logits.gather(1, labels[:, None]).sum()


def flat(gradients):
    return torch.cat([g.reshape(-1) for g in gradients])


def ways_of(model, pixels, labels, matrices):
    """Functions to the flat parameter gradient, by name."""
    size = (pixels.shape[-2], pixels.shape[-1])
    parameters = dict(model.named_parameters())

    def exact():
        x = pixels.clone().requires_grad_()
        with TwiceDifferentiable() as second_order:
            logits = model(x)
        loss = saliency_loss(second_order.pixel_gradient(label_logits(logits, labels), x), size, matrices)
        return flat(torch.autograd.grad(loss, parameters.values(), materialize_grads=True))

    def double_backward():
        x = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(label_logits(model(x), labels), x, create_graph=True)
        loss = saliency_loss(gradient, size, matrices)
        return flat(torch.autograd.grad(loss, parameters.values(), materialize_grads=True))

    def direction():
        x = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(label_logits(model(x), labels), x)
        gradient.requires_grad_()
        return torch.autograd.grad(saliency_loss(gradient, size, matrices), gradient)[0]

    def of_parameters(x):
        def scalar(values):
            return label_logits(functional_call(model, values, (x,)), labels)

        return grad(scalar)({name: value.detach() for name, value in parameters.items()})

    def forward_over_reverse():
        return flat(jvp(of_parameters, (pixels,), (direction(),))[1].values())

    def central(step, per_image):
        def run():
            v = direction()
            # Each image's scalar is divided by its own ε. With BatchNorm by the batch an image acts on the
            # logits of the others too, which ε that differ leave out.
            largest = v.abs().amax((1, 2, 3), keepdim=True) if per_image else v.abs().max().expand(len(v), 1, 1, 1)
            epsilon = step / largest.clamp_min(1e-30)
            weights = (1 / (2 * epsilon)).flatten()
            total = 0
            for sign in (1, -1):
                chosen = model(pixels + sign * epsilon * v).gather(1, labels[:, None]).flatten()
                scalar = (weights / weights.max() * chosen).sum()
                gradients = torch.autograd.grad(scalar, parameters.values(), materialize_grads=True)
                total = total + sign * flat(gradients)
            return total * weights.max()

        return run

    def plain():
        x = pixels
        return flat(torch.autograd.grad(F.cross_entropy(model(x), labels), parameters.values()))

    ways = {
        "plain": plain,
        "exact": exact,
        "double backward": double_backward,
        "forward over reverse": forward_over_reverse,
    }
    for kind, per_image in (("shared ε", False), ("ε of each image", True)):
        ways |= {f"central difference, {kind}, {step:g}": central(step, per_image) for step in STEPS}
    return ways


def without_running_statistics(model):
    """A copy that computes the same in training mode, and has no buffers that dual numbers would be written into."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model.train()


def measure(model, images, labels, repeats):
    model = without_running_statistics(model)
    pixels, labels = torch.cat([images, images.flip(3)]), torch.cat([labels, labels])
    matrices = torch.tensor([[-1.0, 0, images.shape[3]], [0, 1, 0]]).expand(len(images), 2, 3)
    reference = ways_of(copy.deepcopy(model).double(), pixels.double(), labels, matrices.double())["double backward"]()
    ways = ways_of(model, pixels, labels, matrices)
    seconds = {name: [] for name in ways}
    cosines = {}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            gradient = way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            elif name != "plain":
                cosines[name] = F.cosine_similarity(gradient.double(), reference, dim=0).item()
    times = {name: [a / b for a, b in zip(v, seconds["plain"], strict=True)] for name, v in seconds.items()}
    return {"cosine": cosines, "times": times, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the images")
    parser.add_argument("--model", default="resnet18", help="as for python -m train; untrained")
    parser.add_argument("--run", type=Path, help="a run of python -m train, for a trained model in place of --model")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = find_dataset(options.data, train=False)
    torch.manual_seed(0)
    size, count = options.image_size, options.batch_size
    model = load_best(options.run).model if options.run else build_model(options.model, len(dataset.classes), size)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count]
    loader = image_loader(dataset.take(chosen.numpy()), batch_size=count, image_size=size, device="cpu", train=False)
    batch = next(iter(loader))
    settings = {name: getattr(options, name) for name in ("image_size", "batch_size", "repeats")}
    settings |= {"model": f"{load_best(options.run).config.model}, trained" if options.run else options.model}
    result = measure(model, batch.images.clone(), batch.labels, options.repeats)
    print(f"{'way':<44} {'cosine with float64':>20} {'times a plain step':>24}")
    for name, times in result["times"].items():
        cosine = result["cosine"].get(name)
        shown = "" if cosine is None else f"{cosine:.6f}"
        print(f"{name:<44} {shown:>20} {statistics.median(times):>10.2f} ({min(times):.2f} to {max(times):.2f})")
    if options.json:
        options.json.write_text(
            json.dumps({"environment": environment(), "settings": settings, **result}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
