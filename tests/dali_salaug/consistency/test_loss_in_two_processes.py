"""The consistency loss under DistributedDataParallel: the mean over processes of each one's own gradients."""

TWO_PROCESSES = """
import os, sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from dali_salaug import SaliencyConsistency

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
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
dist.destroy_process_group()
os._exit(0)  # gloo's threads now and then abort an interpreter that exits, in programs without this library too
"""


def test_two_processes_share_the_gradients(in_two_processes):
    in_two_processes(TWO_PROCESSES)
