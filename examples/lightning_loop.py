"""Train a Lightning module with this project's loader and stage; checkpoints resume in mid-epoch, to the same pixels.

    python examples/lightning_loop.py --help

Lines that end in `# +` belong to this project. Lines that begin with `# -` are those that they replace. To print the
script without the project:

    sed -e '/# +$/d' -e 's/# - //' examples/lightning_loop.py
"""

import argparse
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint

# - from torch.utils.data import DataLoader
# - from torchvision.datasets import ImageFolder
from torchvision.models import get_model

# - from torchvision.transforms import v2
from dali_salaug import KeepPaste, SaliencyStage  # +
from pipelines import image_loader  # +
from train.data.shapes import embedded_data


class Classifier(lightning.LightningModule):
    def __init__(self, model: str, num_classes: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.network = get_model(model, num_classes=num_classes)
        self.stage = SaliencyStage(KeepPaste(), seed=0)  # +

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        # - inputs, targets = batch
        inputs, targets = self.stage(self.network, batch.images, batch.labels, batch.augmented)  # +
        loss = F.cross_entropy(self.network(inputs), targets)
        self.log("loss", loss, batch_size=len(inputs), prog_bar=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        # - images, labels = batch
        images, labels = batch.images, batch.labels  # +
        correct = self.network(images).argmax(1) == labels
        self.log("top1", 100 * correct.float().mean(), batch_size=len(images), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.05)
        # Scheduled by epochs: `estimated_stepping_batches` sets up the loader before Lightning can restore its state.
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # Lightning saves the loader's state by itself.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:  # +
        checkpoint["stage"] = self.stage.state_dict()  # +

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:  # +
        self.stage.load_state_dict(checkpoint["stage"])  # +


class Images(lightning.LightningDataModule):
    def __init__(self, root: Path, image_size: int, batch_size: int) -> None:
        super().__init__()
        self.root, self.image_size, self.batch_size = root, image_size, batch_size

    def train_dataloader(self) -> Any:
        # - crop = v2.RandomResizedCrop(self.image_size)
        # - return self.loader("train", crop, v2.RandomHorizontalFlip(), v2.RandAugment())
        return self.loader(policy="randaugment")  # +

    def val_dataloader(self) -> Any:
        # - return self.loader("val", v2.Resize(self.image_size), v2.CenterCrop(self.image_size))
        return self.loader(train=False)  # +

    # - def loader(self, split: str, *transforms: v2.Transform) -> DataLoader:
    # -     normalise = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    # -     images = ImageFolder(self.root / split, v2.Compose([*transforms, *normalise]))
    # -     return DataLoader(images, self.batch_size, shuffle=split == "train", num_workers=2)
    def loader(self, **options: Any) -> Any:  # +
        share = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}  # +
        return image_loader(self.root, batch_size=self.batch_size, image_size=self.image_size, **share, **options)  # +


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
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        default_root_dir=args.out,
        callbacks=ModelCheckpoint(args.out, every_n_train_steps=args.checkpoint_every, save_top_k=-1),
        logger=False,
        num_sanity_val_steps=0,
    )
    num_classes = len(list((root / "train").iterdir()))
    trainer.fit(
        Classifier(args.model, num_classes, args.lr),
        datamodule=Images(root, args.image_size, args.batch_size),
        ckpt_path=args.resume,
    )
    print({name: round(value.item(), 4) for name, value in trainer.callback_metrics.items()})
    return trainer


if __name__ == "__main__":
    main()
