"""Published weights, from the folders where torchvision and timm keep what they downloaded; and without any network."""

import json
import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from train.errors import UserError
from train.models.published import Facts, check_published, published

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch's downloads, so far empty, with no network beyond it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: pytest.fail("asks the network"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def file_of(name: str) -> str:
    return torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]


def test_torchvisions(downloads: Path) -> None:
    weights = torchvision.models.squeezenet1_1().state_dict()
    torch.save(weights, downloads / file_of("squeezenet1_1"))
    source = published("squeezenet1_1")
    assert source.weights.keys() == weights.keys()
    assert all(torch.equal(source.weights[name], weights[name]) for name in weights)
    assert source[1:] == (
        "torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1", Facts(None, *IMAGENET), "squeezenet1_1", None
    )  # fmt: skip


def test_an_older_name_of_torchvisions_and_a_form_of_its_own(downloads: Path) -> None:
    """The files of DenseNet have "norm.1"; GoogLeNet's weights are of images in [-1, 1], and have more heads."""
    with torch.device("meta"):
        densenet = torchvision.models.densenet121()
        googlenet = torchvision.models.googlenet(aux_logits=True, init_weights=False)
    for name, model in (("densenet121", densenet), ("googlenet", googlenet)):
        weights = {n: torch.zeros((), dtype=w.dtype).expand(w.shape) for n, w in model.state_dict().items()}
        if name == "densenet121":
            weights = {n: w for n, w in weights.items() if not n.endswith("num_batches_tracked")}
            weights = {n.replace("norm1", "norm.1") if "denselayer" in n else n: w for n, w in weights.items()}
        torch.save(weights, downloads / file_of(name))
    assert published("densenet121").weights.keys() == densenet.state_dict().keys()
    source = published("googlenet")
    assert not any(name.startswith("aux") for name in source.weights)
    assert source.facts == Facts(None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = torch.rand(2, 3, 4, 4)
    theirs = torchvision.models.GoogLeNet(transform_input=True, init_weights=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close((images - 0.5) / 0.5, theirs._transform_input((images - mean) / std))


class Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_download_runs_no_code(downloads: Path) -> None:
    torch.save({"weight": Code(downloads / "ran")}, downloads / file_of("squeezenet1_1"))
    with pytest.raises(UserError, match="weights of --model squeezenet1_1 cannot be loaded: Weights only load"):
        published("squeezenet1_1")
    assert not (downloads / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_without_a_network(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(UserError) as caught:
        published("squeezenet1_1")
    assert str(caught.value) == (
        "--pretrained: the weights of --model squeezenet1_1 cannot be loaded: <urlopen error [Errno -2] Name or"
        " service not known>. Without a network, fetch"
        " https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth elsewhere, and pass the file with"
        " --weights FILE in place of --pretrained"
    )


def test_timms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Hugging Face's folder of downloads, in which a repository's "main" names the folder of its files."""
    timm = pytest.importorskip("timm")
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    advice = r"fetch https://huggingface\.co/timm/test_vit\.r160_in1k .* FILE --mean 0\.5 0\.5 0\.5 --std 0\.5"
    with pytest.raises(UserError, match=rf"cannot be loaded: .*{advice}"):
        published("timm/test_vit")

    model: nn.Module = timm.create_model("test_vit")
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    (repository / "snapshots" / "abc" / "config.json").write_text(json.dumps({}))
    for name in ("timm/test_vit", "test_vit.r160_in1k"):
        source = published(name)
        assert all(torch.equal(source.weights[n], w) for n, w in model.state_dict().items())
        config = timm.get_pretrained_cfg("test_vit")
        assert source[1:] == ("timm's test_vit.r160_in1k", Facts(None, config.mean, config.std), name, None)


@pytest.mark.parametrize("name", ["small", "resnet18_cifar"])
def test_a_model_without_published_weights(name: str) -> None:
    with pytest.raises(UserError, match=f"--pretrained: no weights are published for --model {name}; leave it out"):
        check_published(name)


def test_a_model_of_timm_without_published_weights() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="no weights are published for --model timm/coatnet_0_224"):
        check_published("timm/coatnet_0_224")
