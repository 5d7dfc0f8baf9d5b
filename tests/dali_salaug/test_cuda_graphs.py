"""The stage by a CUDA graph: the same results as without, when it is captured anew, and what it refuses."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_salaug import METHODS, KeepCutout, KeepPaste, SaliencyMemory, SaliencyStage, cuda_graphs
from dali_salaug.cuda_graphs import CudaGraphs
from dali_salaug.methods.puzzlemix import PuzzleMixDraw
from dali_salaug.stage import StageTrace


class FakeGraph:
    """In place of a graph where there is no GPU: counts captures, and computes where a graph would replay."""

    captures = 0

    def __init__(self, function, inputs, generator, pool):
        FakeGraph.captures += 1
        self.function, self.pool = function, pool

    def __call__(self, inputs):
        return self.function(*inputs)


@pytest.fixture
def captures(monkeypatch):
    """A function that returns the number of captures since its last call."""
    monkeypatch.setattr(cuda_graphs, "_Graph", FakeGraph)
    monkeypatch.setattr(cuda_graphs, "may_capture", lambda inputs: True)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)

    def since():
        count, FakeGraph.captures = FakeGraph.captures, 0
        return count

    since()
    return since


def test_each_form_of_arguments_is_captured_the_second_time(captures):
    graphs = CudaGraphs()
    forms = [
        torch.ones(4, 3, 8, 8),
        torch.ones(2, 3, 8, 8),
        torch.ones(4, 3, 8, 8).to(memory_format=torch.channels_last),
        torch.ones(4, 3, 8, 8, dtype=torch.bfloat16),
    ]
    counts = []
    for _ in range(4):
        for x in forms:
            assert torch.equal(graphs(lambda x: x + 1, [x]), x + 1)
        counts.append(captures())
    assert counts == [0, 4, 0, 0]
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            graphs(lambda x: x + 1, forms[:1])
    assert captures() == 1
    graphs.clear()
    for _ in range(3):
        graphs(lambda x: x + 1, forms[:1])
    assert captures() == 1


def test_of_many_forms_those_used_last_are_kept(captures):
    graphs = CudaGraphs()
    for size in range(1, 12):
        for _ in range(2):
            graphs(torch.neg, [torch.ones(size)])
    assert captures() == 11
    graphs(torch.neg, [torch.ones(11)])
    assert captures() == 0
    for _ in range(2):
        graphs(torch.neg, [torch.ones(1)])
    assert captures() == 1


def test_a_copy_has_no_graphs(captures):
    graphs = CudaGraphs()
    for _ in range(3):
        graphs(torch.neg, [torch.ones(2)])
    captures()
    copied = copy.deepcopy(graphs)
    for _ in range(2):
        copied(torch.neg, [torch.ones(2)])
    assert captures() == 1


def test_results_are_mapped_in_all_their_containers():
    x = torch.ones(2)
    drawn = PuzzleMixDraw(partners=x, shares=x, moves=x)
    trace = cuda_graphs._mapped(StageTrace(x, {"a": x}, None, drawn), lambda x: x + 1)
    assert isinstance(trace, StageTrace)
    assert isinstance(trace.drawn, PuzzleMixDraw)
    assert trace.saliency is None
    for got in (trace.inputs, trace.targets["a"], trace.drawn.partners, trace.drawn.shares, trace.drawn.moves):
        assert torch.equal(got, x + 1)
    assert torch.equal(drawn.moves, x)


def test_the_stage_is_captured_anew_for_other_weights_only(captures, small_net, monkeypatch):
    stage, plain = SaliencyStage(KeepPaste(4), cuda_graph=True, seed=3), SaliencyStage(KeepPaste(4), seed=3)
    monkeypatch.setattr("dali_salaug.stage.GRAPHS_ON", "cpu")
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)

    def step(model, **replaced):
        given = {"images": images, "labels": labels, "augmented": images + 1} | replaced
        got, expected = (made.trace(model, **given) for made in (stage, plain))
        assert torch.equal(got.inputs, expected.inputs)
        assert torch.equal(got.saliency, expected.saliency)
        return captures()

    optimizer = torch.optim.SGD(small_net.parameters(), lr=0.1)
    counts = []
    for _ in range(3):
        F.cross_entropy(small_net(images), labels).backward()
        optimizer.step()
        counts.append(step(small_net))
    assert counts == [0, 1, 0]
    other = copy.deepcopy(small_net)
    assert [step(other) for _ in range(3)] == [0, 1, 0]
    other.classifier.weight = nn.Parameter(torch.randn(5, 8))
    assert [step(other) for _ in range(3)] == [0, 1, 0]
    rows = F.one_hot(labels, 5).float()
    assert [step(small_net, labels=rows) for _ in range(3)] == [0, 1, 0]
    stage.load_state_dict(plain.state_dict())
    assert [step(small_net) for _ in range(3)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuda_graph": 1}, "cuda_graph must be True or False; got 1"),
        ({"cuda_graph": True, "compiled": True}, "cuda_graph must be False .* got True with compiled=True"),
        (
            {"cuda_graph": True, "saliency": "memory", "memory": SaliencyMemory(3)},
            "cuda_graph must be False .* got True with saliency 'memory'",
        ),
    ],
)
def test_what_excludes_it_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        SaliencyStage(KeepCutout(4), **options)


def test_the_cpu_has_no_graphs(small_net):
    images, labels = torch.randn(2, 3, 16, 16), torch.arange(2)
    stage = SaliencyStage(KeepCutout(4), cuda_graph=True, warmup_epochs=1)
    assert "cuda_graph=True" in repr(stage)
    stage.set_epoch(0)
    assert stage(small_net, images, labels)[0] is images
    stage.set_epoch(1)
    with pytest.raises(ValueError, match="cuda_graph must be False for images on cpu: it needs a GPU; got True"):
        stage(small_net, images, labels)


def pairs(name, **options):
    """The stage with and without a graph."""
    entry = METHODS[name]
    options = {"saliency": entry.saliency, "target": entry.target, "scale": entry.scale, "seed": 3} | options
    return [
        SaliencyStage(entry.build(5, region_size=4), warmup_epochs=0, cuda_graph=graph, **options)
        for graph in (True, False)
    ]


def tensors_of(trace):
    drawn = trace.drawn
    parts = [vars(part) for part in ([drawn.first, drawn.second] if hasattr(drawn, "second") else [drawn])]
    return [trace.inputs, trace.targets, *(value for part in parts for value in part.values())]


def assert_same(got, expected):
    for one, other in zip(tensors_of(got), tensors_of(expected), strict=True):
        torch.testing.assert_close(one, other)
    assert got.inputs.stride() == expected.inputs.stride()
    assert (got.saliency is None) == (expected.saliency is None)
    if got.saliency is not None:
        torch.testing.assert_close(got.saliency, expected.saliency)


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", METHODS)
def test_a_graph_gives_the_same_in_training(small_net, no_waiting, name):
    """Over steps that update the weights and the running statistics, with a smaller batch among them."""
    model = small_net.to("cuda").to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    graph, plain = pairs(name)
    for step, count in enumerate((8, 8, 8, 3, 8, 3, 3, 8)):
        torch.manual_seed(step)
        images = torch.randn(count, 3, 16, 16, device="cuda").to(memory_format=torch.channels_last)
        labels, augmented = torch.randint(5, (count,), device="cuda"), images.flip(3)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random_state = torch.cuda.get_rng_state()
        with no_waiting() if step > 5 else nullcontext():
            got = graph.trace(model, images, labels, augmented)
        assert_same(got, plain.trace(model, images, labels, augmented))
        assert torch.equal(torch.cuda.get_rng_state(), random_state)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key
        assert torch.equal(graph.state_dict()["generator"], plain.state_dict()["generator"])
        targets = got.targets
        F.cross_entropy(model.train()(got.inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("saliency", ["gradient", "smoothgrad", "guided", "deconvnet", "grad_cam", "fine_grained"])
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
def test_every_map_and_autocast(small_net, saliency, amp):
    model = small_net.to("cuda")
    images, labels = torch.randn(6, 3, 16, 16, device="cuda"), torch.arange(6, device="cuda") % 5
    graph, plain = pairs("keep_cutout", saliency=saliency, **({"samples": 3} if saliency == "smoothgrad" else {}))
    for _ in range(4):
        with torch.autocast("cuda", amp, enabled=amp is not None):
            assert_same(graph.trace(model, images, labels), plain.trace(model, images, labels))


@pytest.mark.gpu
@pytest.mark.usefixtures("exact")
def test_results_are_the_callers_and_the_state_resumes(small_net):
    model = small_net.to("cuda")
    images, labels = torch.randn(6, 3, 16, 16, device="cuda"), torch.arange(6, device="cuda") % 5
    graph, _ = pairs("keep_cutmix")
    graph(model, images, labels)
    graph(model, images, labels)
    state = graph.state_dict()
    expected = [graph(model, images, labels) for _ in range(3)]
    copies = [(inputs.clone(), targets.clone()) for inputs, targets in expected]
    graph(model, images + 1, labels)
    for kept, copied in zip(expected, copies, strict=True):
        assert torch.equal(kept[0], copied[0])
        assert torch.equal(kept[1], copied[1])
    for stage in (graph, *pairs("keep_cutmix")):
        stage.load_state_dict(state)
        for inputs, targets in copies:
            got = stage(model, images, labels)
            assert torch.equal(got[0], inputs)
            assert torch.equal(got[1], targets)


@pytest.mark.gpu
def test_labels_in_a_dictionary_and_those_that_stay_are_the_callers(small_net):
    model, images = small_net.to("cuda"), torch.randn(4, 3, 16, 16, device="cuda")
    stage, _ = pairs("keep_cutout", target="max")
    for value in range(4):
        labels = {"age": torch.full((4,), value, device="cuda")}
        assert stage(model, images, labels)[1] is labels
        assert stage(model, images, labels["age"])[1] is labels["age"]


@pytest.mark.gpu
def test_within_a_capture_of_the_users_own_it_is_part_of_that(small_net):
    model, images = small_net.to("cuda").eval(), torch.randn(4, 3, 16, 16, device="cuda")
    labels = torch.arange(4, device="cuda")
    stage = SaliencyStage(KeepCutout(4), cuda_graph=True)
    stage(model, images, labels)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(stage._generator)
    with torch.cuda.graph(graph):
        inputs, _ = stage(model, images, labels)
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(inputs.clone())
        assert (inputs == 0).any()
    assert not torch.equal(*seen)


@pytest.mark.gpu
def test_puzzlemix_takes_a_graph_of_its_own(no_waiting):
    """And the same one without: with the CPU's masks, and its moves where they are worth something."""
    method = METHODS["puzzlemix"].build(4)
    graphs, method._graphs = method._graphs, lambda solve, inputs, key: solve(*inputs)
    for count in (16, 16, 16, 5, 5, 5):
        images, saliency = torch.randn(count, 3, 32, 32, device="cuda"), torch.rand(count, 16, 16, device="cuda").pow(4)
        expected = method.draw(images, saliency, torch.Generator("cuda").manual_seed(count))
        captured = copy.copy(method)
        captured._graphs = graphs
        got = captured.draw(images, saliency, torch.Generator("cuda").manual_seed(count))
        for part in ("partners", "shares", "moves"):
            assert torch.equal(getattr(got, part), getattr(expected, part)), part
    with no_waiting():
        captured.draw(images, saliency, torch.Generator("cuda").manual_seed(0))
