"""The losses on features: triplets with hard mining, and the distance to the centre of an identity."""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-12  # of squared distances whose root is taken: the gradient of the root at 0 is not finite


def distances(features: Tensor) -> Tensor:
    """Return the Euclidean distances between all features: (B, D) floating point to (B, B) float32."""
    with torch.autocast(features.device.type, enabled=False):  # differences of products need all their digits
        features = features.float()
        squares = features.square().sum(1)
        squared = squares[:, None] + squares[None] - 2 * features @ features.mT
        return squared.clamp(min=LEAST).sqrt()


def triplet_loss(features: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Return the triplet loss with batch-hard mining (Hermans et al. 2017, arXiv:1703.07737, eq. 5).

    The mean over the images of max(0, margin + the distance to the furthest image of the same identity − the distance
    to the nearest one of another). An image without one of another identity has no loss.

    Args:
        features: (B, D), floating point.
        labels: identities, (B,) int64.
        margin: at least 0.

    Returns:
        0-dim, float32.
    """
    apart = distances(features)
    same = labels[:, None] == labels[None]
    furthest = torch.where(same, apart, 0.0).amax(1)
    nearest = torch.where(same, torch.inf, apart).amin(1)
    return F.relu(margin + furthest - nearest).mean()


class Centres:
    """A centre for each identity, which follows the features of its images (Wen et al. 2016, "center loss").

    The loss is the mean over the images of the squared distance between features and centre. As Luo et al. 2019
    (arXiv:1903.07071) train them, the centres have a gradient descent of their own, with the gradients of the loss
    without its weight: :meth:`step` is such a step in closed form.

    Args:
        identities: K.
        features: D.
        lr: learning rate of the centres.
        device: of the centres.

    Attributes:
        values: (K, D) float32.
    """

    def __init__(self, identities: int, features: int, *, lr: float, device: torch.device) -> None:
        self.lr = lr
        self.values = torch.randn(identities, features).to(device)  # of torch's generator on the host, as weights are

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, 0-dim float32, of features (B, D) and identities (B,) int64."""
        squared = (features.float() - self.values[labels]).square().sum(1)
        return squared.mean()

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return what a step adds to the centres, (K, D): −lr times the gradient of the loss."""
        towards = features.float() - self.values[labels]
        return torch.zeros_like(self.values).index_add_(0, labels, towards, alpha=2 * self.lr / len(labels))
