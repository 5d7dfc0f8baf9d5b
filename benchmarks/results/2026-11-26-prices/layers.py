"""What to remember in place of the input's gradient: `python layers.py DATA [MODEL] [EPOCHS] [IMAGES]`, in this folder.

One run trains KeepCutout with remembered maps. Beside the memory that it draws from, others are written in the same
steps from other tensors. After some epochs, each is compared with the live full map, as `dali-salaug prices` does.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dali_salaug import SaliencyMemory, saliency_map
from dali_salaug.saliency.maps import reduced_size
from train.analysis.boxes import objects_of
from train.analysis.history import History, whole_images
from train.analysis.precision import RULES
from train.analysis.prices import admitted_too, box_shares, regions_of
from train.cli.checks import check
from train.config import Config
from train.data.loaders import resolve_for_data
from train.engine.run import Run

MEASURED = (1, 3, 5, 8, 12)  # epochs
IMAGES = 500
# Of the gradient and the output of the first convolution, (B, C, h, w) each.
OF_A_LAYER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient, largest channel": lambda g, z: g,
    "gradient, sum of channels": lambda g, z: g.abs().sum(1, keepdim=True),
    "gradient, norm over channels": lambda g, z: g.norm(dim=1, keepdim=True),
    "gradient times output, sum": lambda g, z: (g * z).sum(1, keepdim=True),
    "gradient times output, sum of absolutes": lambda g, z: (g * z).abs().sum(1, keepdim=True),
    "output, sum of absolutes": lambda g, z: z.abs().sum(1, keepdim=True),
}
EVERY = {"input's gradient, every 2nd step": 2, "input's gradient, every 4th step": 4}


def listen(run: Run) -> dict[str, SaliencyMemory]:
    """Have all memories written in each step of the run, and return them."""
    main = run.objective.stage.memory  # type: ignore[attr-defined]
    others = {name: SaliencyMemory(main.samples) for name in (*OF_A_LAYER, *EVERY)}
    found: dict[str, Tensor] = {}
    steps = [0]
    write = main.write

    def first_convolution(module: nn.Module, _: tuple, output: Tensor) -> None:
        if output.requires_grad and module.training:
            found["output"] = output.detach()
            output.register_hook(lambda gradient: found.__setitem__("gradient", gradient))

    def write_all(indices: Tensor, views: Tensor, gradient: Tensor, weights: Tensor | None = None) -> None:
        write(indices, views, gradient, weights)
        g, z = found.pop("gradient"), found.pop("output")
        own = None if weights is None else F.interpolate(weights[:, None], g.shape[-2:], mode="area")[:, 0]
        for name, of in OF_A_LAYER.items():
            others[name].set_epoch(main.epoch)
            others[name].write(indices, views, of(g, z), own)
        for name, every in EVERY.items():
            if steps[0] % every == 0:
                others[name].write(indices, views, gradient, weights)
        steps[0] += 1

    next(m for m in run.model.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(first_convolution)
    main.write = write_all
    return {"input's gradient": main, **others}


def compare(run: Run, history: History, memories: dict[str, SaliencyMemory]) -> dict[str, list[float]]:
    """Return for each map the shares, per cent: cut, of the box removed; paste, of the box kept."""
    config, side = run.config, run.config.image_size
    sums: dict[str, list[float]] = {}
    count = 0
    for batch, places in whole_images(history, IMAGES):
        objects = objects_of(history.dataset, None, batch._replace(indices=places), side)
        full = saliency_map(run.model, batch.images, batch.labels, scale=1.0)
        maps = {"live, full": full, "live, half": saliency_map(run.model, batch.images, batch.labels, scale=0.5)}
        size = reduced_size(batch.images, 0.5)
        maps |= {name: memory.read(places, batch.views, size) for name, memory in memories.items()}  # type: ignore
        count += len(places)
        for name, map_ in maps.items():
            found = []
            for rule in RULES.values():
                regions = regions_of(map_, side, config.region_size, config.tau, rule)
                reference = regions_of(full, side, config.region_size, config.tau, rule)
                found.append(admitted_too(regions, reference).sum().item())
                if objects is not None:
                    found.append(box_shares(regions, objects).sum().item())
            sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * len(found)), found, strict=True)]
    return {name: [100 * value / count for value in found] for name, found in sums.items()}


def main(data: str, model: str = "small", epochs: str = "12", images: str = "5000") -> None:
    options: dict[str, Any] = {"method": "keep_cutout", "saliency": "memory", "device": "cpu", "seed": 0}
    config = Config(data=data, model=model, epochs=int(epochs), train_images=int(images), **options)
    check(config)
    run = Run(resolve_for_data(config))
    memories = listen(run)
    means = run.train_loader.mean, run.train_loader.std
    history = History(run.config, run.train_loader.dataset, [], run.device, *means)
    report = {}
    for epoch in range(1, run.config.epochs + 1):
        run.begin_epoch()
        batches = iter(run.train_loader)
        while run.step < run.steps:
            run.train_step(batches)
        run.end_epoch()
        if epoch in MEASURED:
            report[epoch] = compare(run, history, memories)
            for name, shares in report[epoch].items():
                print(f"{epoch:2} {name:<40} {'  '.join(f'{share:5.1f}' for share in shares)}", flush=True)
    Path(__file__).with_name(f"layers-{model}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
