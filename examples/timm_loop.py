"""Train with the parts of timm's script (model, optimizer, schedule, soft-target loss, EMA), fed by this project.

    python examples/timm_loop.py --help

Lines that end in `# +` belong to this project. Lines that begin with `# -` are those that they replace. To print the
script without the project:

    sed -e '/# +$/d' -e 's/# - //' examples/timm_loop.py
"""

import argparse
from pathlib import Path

import torch
from timm import create_model
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, accuracy

# - from timm.data import Mixup, create_dataset, create_loader
from dali_salaug import KeepCutMix, SaliencyStage  # +
from dali_salaug.integrations.timm import SaliencyMixup, TimmLoader  # +
from pipelines import image_loader  # +
from train.data.shapes import embedded_data


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a timm model with timm's parts, the DALI loader and KeepCutMix.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder with train/<class>/* and val/<class>/*; None: embedded data")
    parser.add_argument("--model", default="test_resnet", help="name of a timm model")
    parser.add_argument("--image-size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training images")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--checkpoint", type=Path, help="file to write after each epoch")
    parser.add_argument("--resume", type=Path, help="checkpoint to resume from")
    return parser


@torch.no_grad()
def validate(model: torch.nn.Module, loader, device: torch.device) -> float:
    """Return the top-1 accuracy in per cent."""
    top1 = AverageMeter()
    model.eval()
    for images, labels in loader:
        (correct,) = accuracy(model(images), labels, topk=(1,))
        top1.update(correct.item(), len(labels))
    return top1.avg


def main(arguments: list[str] | None = None) -> ModelEmaV3:
    args = build_parser().parse_args(arguments)
    root = args.data or embedded_data()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)

    # - train_set, val_set = (create_dataset("", root, split) for split in ("train", "val"))
    # - options = {"input_size": args.image_size, "batch_size": args.batch_size, "device": device, "num_workers": 2}
    # - train_loader = create_loader(train_set, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", **options)
    # - val_loader = create_loader(val_set, **options)
    # - num_classes = len(train_set.reader.class_to_idx)
    options = {"batch_size": args.batch_size, "image_size": args.image_size}  # +
    train_images = image_loader(root, seed=0, **options)  # +
    val_loader = TimmLoader(image_loader(root, train=False, **options))  # +
    num_classes = len(train_images.dataset.classes)  # +

    model = create_model(args.model, num_classes=num_classes).to(device)
    # - mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=num_classes)
    stage = SaliencyStage(KeepCutMix(num_classes), seed=0)  # +
    train_loader = TimmLoader(train_images, SaliencyMixup(stage, model, num_classes))  # +
    optimizer = create_optimizer_v2(model, opt="adamw", lr=args.lr, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, num_epochs=args.epochs, updates_per_epoch=len(train_loader), step_on_epochs=False
    )
    ema = ModelEmaV3(model, decay=0.99, use_warmup=True)
    criterion = SoftTargetCrossEntropy()

    start = 0
    if args.resume:
        state = torch.load(args.resume, map_location=device, weights_only=True)
        for name, part in (("model", model), ("ema", ema), ("optimizer", optimizer), ("scheduler", scheduler)):
            part.load_state_dict(state[name])
        start = state["epoch"]

    for epoch in range(start, epochs):
        losses = AverageMeter()
        model.train()
        updates = epoch * len(train_loader)
        train_loader.set_epoch(epoch)  # +
        for inputs, targets in train_loader:
            # - inputs, targets = mixup(inputs, targets)
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            ema.update(model, step=updates)
            scheduler.step_update(updates)
            losses.update(loss.item(), len(inputs))
        print(
            f"epoch {epoch + 1}/{epochs}  loss {losses.avg:.4f}  top-1 {validate(ema.module, val_loader, device):.2f} %"
        )
        if args.checkpoint:
            parts = {"model": model, "ema": ema, "optimizer": optimizer, "scheduler": scheduler}
            torch.save(
                {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1}, args.checkpoint
            )
    return ema


if __name__ == "__main__":
    main()
