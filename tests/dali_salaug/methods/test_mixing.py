"""What two-image methods share (partners, λ, labels), Mixup, and both against torchvision with one λ for the batch."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from dali_salaug import CutMix, KeepCutMix, Mixup, SaliencyMix
from dali_salaug.methods.mixing import BoxPairDraw
from dali_salaug.methods.mixup import MixupDraw

METHODS = [Mixup, CutMix, KeepCutMix, SaliencyMix]


def partners_of(method, batch, draws):
    generator = torch.Generator().manual_seed(0)
    images, saliency = torch.zeros(batch, 1, 8, 8), torch.zeros(batch, 4, 4)
    return torch.stack([method.draw(images, saliency, generator).partners for _ in range(draws)])


@pytest.mark.parametrize("method", METHODS)
def test_a_permutation_is_one_of_all(method):
    partners = partners_of(method(2), 4, 600)
    seen, counts = partners.unique(dim=0, return_counts=True)
    assert len(seen) == 24
    assert torch.equal(partners.sort(1).values, torch.arange(4).expand(600, 4))
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize("method", METHODS)
def test_replacement_draws_each_partner_from_the_whole_batch(method):
    partners = partners_of(method(2, partners="replacement"), 3, 675)
    seen, counts = partners.unique(dim=0, return_counts=True)
    assert len(seen) == 27  # all triples, repetitions and the image itself among them
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize("alpha", [1.0, 0.2, 0.5, 3.0, 40.0])
def test_lambda_is_of_each_image_and_beta(alpha):
    drawn = Mixup(2, alpha=alpha).draw(torch.zeros(4000, 1, 2, 2), None, torch.Generator().manual_seed(0))
    own, other = drawn.weights.unbind(1)
    assert stats.kstest(own.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert torch.equal(own + other, torch.ones(4000, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.05, 1e6])
def test_lambda_at_the_ends_of_the_range(alpha):
    """The moments: at 0.05 a tenth of all are nearer to 0 or 1 than float64 resolves."""
    images = torch.zeros(20_000, 1, 2, 2)
    lam = Mixup(2, alpha=alpha)._draw_lambda(images, torch.Generator().manual_seed(0))
    assert ((lam >= 0) & (lam <= 1)).all()
    expected = stats.beta(alpha, alpha)
    assert lam.mean().item() == pytest.approx(0.5, abs=4 * expected.std() / 20_000**0.5)
    assert lam.std().item() == pytest.approx(expected.std(), rel=0.02)


def test_lambda_is_drawn_by_a_compiled_step():
    """Without gamma variates, for which torch.compile has no form."""
    method = Mixup(2, alpha=0.4)

    def weights(images):
        return method.draw(images, None, None).weights

    results = []
    for draw in (weights, torch.compile(weights, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        results.append(draw(torch.zeros(6, 1, 2, 2)))
    assert torch.equal(*results)


@pytest.mark.parametrize("partners", ["permutation", "replacement"])
def test_mixup_by_a_loop(soft_label, partners):
    method = Mixup(4, partners=partners)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(12, 2, 5, 7, generator=generator), torch.arange(12) % 4
    before, drawn = images.clone(), method.draw(images, None, generator)
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, (5, 7))
    for i in range(12):
        j, own = int(drawn.partners[i]), float(drawn.weights[i, 0])
        for c in range(2):
            for y in range(5):
                for x in range(7):
                    expected = own * float(images[i, c, y, x]) + (1 - own) * float(images[j, c, y, x])
                    assert float(inputs[i, c, y, x]) == pytest.approx(expected, abs=1e-6)
        assert targets[i].tolist() == soft_label(4, (labels[i], own), (labels[j], 1 - own))
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_mixup_keeps_the_dtype_and_an_image_that_is_its_own_partner(dtype):
    images = torch.randn(3, 2, 4, 4).to(dtype)
    drawn = replace(Mixup(2).draw(images, None, None), partners=torch.arange(3))
    mixed = Mixup(2).apply(images, drawn, None)
    assert mixed.dtype == dtype
    assert torch.equal(mixed, images)


def test_mixup_is_torchvisions_where_the_batch_shares_lambda():
    images, labels = torch.randn(6, 3, 10, 14), torch.tensor([0, 1, 2, 3, 4, 0])
    theirs = v2.MixUp(num_classes=5)
    theirs.make_params = lambda inputs: {"lam": 0.3}
    expected, expected_targets = theirs(images, labels)
    weights = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(6, 2)
    drawn = MixupDraw(partners=torch.arange(6).roll(1), weights=weights)
    torch.testing.assert_close(Mixup(5).apply(images, drawn, None), expected)
    torch.testing.assert_close(Mixup(5).targets(labels, drawn, (10, 14)), expected_targets)


def test_cutmix_is_torchvisions_where_the_batch_shares_lambda():
    images, labels = torch.randn(6, 3, 10, 14), torch.tensor([0, 1, 2, 3, 4, 0])
    theirs = v2.CutMix(num_classes=5)
    torch.manual_seed(0)
    for _ in range(10):
        params = theirs.make_params([images])
        theirs.make_params = lambda inputs, params=params: params
        expected, expected_targets = theirs(images, labels)
        del theirs.make_params  # the class's own again
        left, top, right, bottom = params["box"]
        boxes = torch.tensor([[top, left, bottom, right]]).expand(6, 4)
        drawn = BoxPairDraw(partners=torch.arange(6).roll(1), boxes=boxes)
        assert torch.equal(CutMix(5).apply(images, drawn, None), expected)
        torch.testing.assert_close(CutMix(5).targets(labels, drawn, (10, 14)), expected_targets)


def test_unknown_partners_are_named():
    with pytest.raises(ValueError, match="partners must be one of 'permutation', 'replacement'; got 'random'"):
        Mixup(5, partners="random")
