"""Semi-supervised classification: one more loader, for the labelled images, and an objective of both."""

from pipelines import ImageLoader
from train.data.loaders import make_loader
from train.engine.network import Network
from train.tasks.classification.stage import training_stage
from train.tasks.classification.task import Classification
from train.tasks.semi.config import ResolvedSemiConfig
from train.tasks.semi.loaders import labelled_images, labelled_loader, unlabelled_images
from train.tasks.semi.objective import SemiObjective


class SemiSupervised(Classification):
    """Classification from labelled and unlabelled images; `train_loader` is that of the unlabelled ones."""

    config: ResolvedSemiConfig

    def _training_loader(self) -> ImageLoader:
        self.labelled = labelled_images(self.config)
        unlabelled, self.labels_known = unlabelled_images(self.config, self.labelled.classes)
        return make_loader(self.config, train=True, dataset=unlabelled, world=self.world, images=None)

    def make_objective(self, network: Network, steps: int) -> SemiObjective:
        config, world = self.config, self.world
        stage = training_stage(config, network, len(self.classes), config.seed + world.rank)
        labelled = labelled_loader(config, self.labelled, len(self.train_loader.dataset), world)
        return SemiObjective(stage, network, config, labelled, known=self.labels_known, steps=steps)

    def _images(self) -> str:
        return f"{len(self.labelled)} labelled, {len(self.train_loader.dataset)} unlabelled"
