"""The early head under DistributedDataParallel: the head's gradients are shared like the network's."""

TWO_PROCESSES = """
import os, sys, torch, torch.distributed as dist, torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from dali_salaug import KeepCutout, SaliencyStage, WithEarlyHead

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
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
dist.destroy_process_group()
os._exit(0)  # gloo's threads now and then abort an interpreter that exits, in programs without this library too
"""


def test_two_processes_share_the_gradients_of_the_head(in_two_processes):
    in_two_processes(TWO_PROCESSES)
