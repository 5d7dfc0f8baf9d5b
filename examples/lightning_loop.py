"""Train a Lightning module with this project's loader and stage; checkpoints resume in mid-epoch, to the same pixels.

    python examples/lightning_loop.py --help

Lines that end in `# +` belong to this project. Lines that begin with `# -` are those that they replace. To print the
script without the project:

    sed -e '/# +$/d' -e 's/# - //' examples/lightning_loop.py
"""

import argparse
from functools import partial  # +
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint

# - from torchvision.datasets import ImageFolder
from torchvision.models import get_model

# - from torchvision.transforms import v2
from dali_salaug import KeepPaste, SaliencyStage  # +
from dali_salaug.integrations.lightning import ImageDataModule, SaliencyAugmentation  # +
from pipelines import image_loader  # +
from train.data.shapes import embedded_data


class Classifier(lightning.LightningModule):
    def __init__(self, model: str, num_classes: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.network = get_model(model, num_classes=num_classes)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        inputs, targets = batch
        loss = F.cross_entropy(self.network(inputs), targets)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        images, labels = batch
        correct = self.network(images).argmax(1) == labels
        self.log("top1", 100 * correct.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.05)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a torchvision model with Lightning, the DALI loader and KeepRandAugment.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder with train/<class>/* and val/<class>/*; None: embedded data")
    parser.add_argument("--model", default="shufflenet_v2_x0_5", help="name of a torchvision model")
    parser.add_argument("--image-size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a step")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training images")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--out", type=Path, default="runs/lightning", help="folder for the checkpoints")
    parser.add_argument("--checkpoint-every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--resume", type=Path, help="checkpoint to resume from")
    return parser


def main(arguments: list[str] | None = None) -> lightning.Trainer:
    args = build_parser().parse_args(arguments)
    root = args.data or embedded_data()
    lightning.seed_everything(0)

    # - normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    # - augment = [v2.RandomResizedCrop(args.image_size), v2.RandomHorizontalFlip(), v2.RandAugment()]
    # - crop = [v2.Resize(args.image_size), v2.CenterCrop(args.image_size)]
    # - train_set = ImageFolder(root / "train", v2.Compose([*augment, *normalise]))
    # - val_set = ImageFolder(root / "val", v2.Compose([*crop, *normalise]))
    # - options = {"batch_size": args.batch_size, "num_workers": 2}
    # - data = lightning.LightningDataModule.from_datasets(train_set, val_set, **options)
    loader = partial(image_loader, root, batch_size=args.batch_size, image_size=args.image_size)  # +
    data = ImageDataModule(train=partial(loader, policy="randaugment"), val=partial(loader, train=False))  # +
    callbacks: list[Any] = [ModelCheckpoint(args.out, every_n_train_steps=args.checkpoint_every, save_top_k=-1)]
    callbacks.append(SaliencyAugmentation(SaliencyStage(KeepPaste(), seed=0), model="network"))  # +
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        default_root_dir=args.out,
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
    )
    num_classes = len(list((root / "train").iterdir()))
    trainer.fit(Classifier(args.model, num_classes, args.lr), datamodule=data, ckpt_path=args.resume)
    print({name: round(value.item(), 4) for name, value in trainer.callback_metrics.items()})
    return trainer


if __name__ == "__main__":
    main()
