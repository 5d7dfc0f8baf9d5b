"""The state of a generator on its own type of device, and on another."""

import re

import pytest
import torch

from dali_salaug import KeepCutout, Mixup, SaliencyStage
from dali_salaug.generators import restore, seed_of

FOREIGN = {"cpu": 16, "cuda": 5056}  # bytes of a state from the other type of device
CPU = torch.Generator().get_state()


def numbers(generator):
    return torch.rand(8, generator=generator, device=generator.device).tolist()


def foreign(device, value):
    if device == "cuda":
        return torch.Generator().manual_seed(value).get_state()
    return torch.tensor([value] * 8 + [0] * 8, dtype=torch.uint8)  # seed and offset


def test_on_its_own_device_the_numbers_go_on(device):
    generator = torch.Generator(device).manual_seed(3)
    numbers(generator)
    state, expected = generator.get_state(), numbers(generator)
    other = torch.Generator(device)
    restore(other, state)
    assert numbers(other) == expected


def test_a_state_from_another_device_is_a_seed(device):
    drawn = {}
    for value in (0, 1, 255):
        for _ in range(2):  # whatever the generator was before
            generator = torch.Generator(device).manual_seed(len(drawn))
            restore(generator, foreign(device, value))
            assert drawn.setdefault(value, numbers(generator)) == drawn[value]
    plain = [numbers(torch.Generator(device).manual_seed(seed)) for seed in (0, 1)]
    assert len({tuple(found) for found in [*drawn.values(), *plain]}) == 5


def test_each_byte_of_a_state_makes_another_seed():
    state = torch.Generator().get_state()
    seeds = {seed_of(state)}
    for place in (0, 1000, len(state) - 1):
        changed = state.clone()
        changed[place] += 1
        seeds.add(seed_of(changed))
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stage_resumes_from_another_device(small_net, device):
    small_net.to(device)
    images, labels = torch.randn(4, 3, 16, 16, device=device), torch.arange(4, device=device)
    runs = []
    for seed in (1, 2):
        stage = SaliencyStage(KeepCutout(4), seed=seed)
        stage.load_state_dict({"epoch": 2, "generator": foreign(device, 7)})
        assert torch.equal(stage.state_dict()["generator"], foreign(device, 7))
        runs.append([stage(small_net, images, labels)[0] for _ in range(2)])
        assert stage.state_dict()["generator"].numel() != FOREIGN[device]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (CPU[:5000], "generator of the state must be that of a generator, of 16 or 44 or 5056 bytes; got 5000"),
        (CPU[:0], "of 16 or 44 or 5056 bytes; got 0"),
        (torch.zeros(5056, dtype=torch.uint8), "got 5056 bytes that are none (Invalid mt19937 state)"),
        (torch.full((16,), 7, dtype=torch.uint8), "got 16 bytes that are none (Offset is not a multiple of 4)"),
    ],
)
def test_bytes_that_are_no_generators_state_are_refused_when_loaded(state, message):
    stage = SaliencyStage(KeepCutout(4))
    with pytest.raises(ValueError, match=re.escape(message)):
        stage.load_state_dict({"epoch": 2, "generator": state})
    assert stage.state_dict() == {"epoch": None, "generator": None}


@pytest.mark.gpu
@pytest.mark.parametrize(("before", "after"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_a_stage_moves_between_the_devices(before, after):
    """Exactly on the same device; on another, equally from the same state."""
    first = SaliencyStage(Mixup(4), seed=5)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)

    def draw(stage, device):
        return stage.trace(torch.nn.Identity(), images.to(device), labels.to(device)).drawn.weights.cpu()

    draw(first, before)
    state = first.state_dict()
    expected = draw(first, before)
    got = []
    for _ in range(2):
        resumed = SaliencyStage(Mixup(4), seed=6)
        resumed.load_state_dict(state)
        got.append(draw(resumed, after))
    assert torch.equal(*got)
    assert torch.equal(got[0], expected) == (before == after)
