"""Under DistributedDataParallel: the mean over processes of each one's own gradients, of the loss and of the head.

Both run in the same two processes, whose start takes longer than they do.
"""

START = """
import os, sys, torch, torch.distributed as dist, torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from dali_salaug import KeepCutout, SaliencyConsistency, SaliencyStage, WithEarlyHead

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
"""

CONSISTENCY_LOSS = """
torch.manual_seed(0)
layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Softplus(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1)
network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))
for scale, options in (1, {}), (1, {"find_unused_parameters": True}), (0.5, {}), (0.5, {"static_graph": True}):
    consistency = SaliencyConsistency(1, 1, 1, scale=scale, layers=["3"])
    ddp = DistributedDataParallel(network, **options)
    for step in range(2):
        torch.manual_seed(1 + rank + 2 * step)
        images, labels = torch.randn(4, 3, 12, 12), torch.randint(5, (4,))
        own = torch.autograd.grad(consistency(network, images, 2 * images, labels).total, list(network.parameters()))
        network.zero_grad()
        consistency(ddp, images, 2 * images, labels).total.backward()
        for mean, p in zip(own, network.parameters(), strict=True):
            dist.all_reduce(mean)
            torch.testing.assert_close(mean / 2, p.grad)
try:
    SaliencyConsistency()(ddp, images, images, labels)
except ValueError as error:
    assert "static_graph" in str(error)
else:
    raise AssertionError("a static graph, whose gradients would be shared too early, was not refused")
"""

EARLY_HEAD = """
torch.manual_seed(0)
layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
network = WithEarlyHead(nn.Sequential(*layers), 5, after="1")
ddp = DistributedDataParallel(network)
stage = SaliencyStage(KeepCutout(4), head=network.early, seed=rank)
torch.manual_seed(1 + rank)
inputs, targets = stage(ddp, torch.randn(4, 3, 12, 12), torch.randint(5, (4,)))

def loss(outputs):
    return F.cross_entropy(outputs[0], targets) + 0.3 * F.cross_entropy(outputs[1], targets)

own = torch.autograd.grad(loss(network(inputs)), list(network.parameters()))
loss(ddp(inputs)).backward()
for mean, p in zip(own, network.parameters(), strict=True):
    assert not torch.equal(mean, p.grad)
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / 2, p.grad)
"""

END = """
dist.destroy_process_group()
os._exit(0)  # gloo's threads now and then abort an interpreter that exits, in programs without this library too
"""


def test_two_processes_share_the_gradients_of_the_loss_and_of_the_early_head(in_two_processes):
    in_two_processes(START + CONSISTENCY_LOSS + EARLY_HEAD + END)
