"""Weights from everywhere, their digest, and every way in which they can be wrong."""

import pickle

import pytest
import safetensors.torch
import torch
import torchvision

from pipeline.backbones import load_backbone
from pipeline.backbones.weights import fit_weights, load_weights, weights_digest
from pipeline.errors import BackboneError, WeightsError


@pytest.fixture(scope="module")
def state():
    return load_weights("squeezenet1_0", "random", seed=5)


@pytest.fixture(scope="module")
def digest(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    safetensors.torch.save_file(state, path)
    return load_backbone("squeezenet1_0", weights=path).weights_digest


def test_random_weights_depend_on_the_seed_alone(state):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = load_weights("squeezenet1_0", "random", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights_digest(again) == weights_digest(state)
    assert weights_digest(load_weights("squeezenet1_0", "random", seed=6)) != weights_digest(state)


def test_random_weights_are_torchvisions_initialisation(state):
    torch.manual_seed(5)
    network = torchvision.models.squeezenet1_0(weights=None)
    assert weights_digest(network.state_dict()) == weights_digest(state)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_torch_files_have_the_digest_of_safetensors(state, digest, tmp_path, wrapper):
    path = tmp_path / "w.pth"
    parameters = {key: torch.nn.Parameter(value) for key, value in state.items()}
    torch.save({wrapper: parameters, "epoch": 3} if wrapper else parameters, path)
    assert load_backbone("squeezenet1_0", weights=path).weights_digest == digest


def test_weights_that_no_tap_needs_do_not_matter(state, digest, tmp_path):
    path = tmp_path / "w.safetensors"
    other = {key: value for key, value in state.items() if not key.startswith("classifier")}
    other["classifier.1.weight"] = torch.zeros(7, 512, 1, 1)
    other["extra"] = torch.zeros(1)
    safetensors.torch.save_file(other, path)
    assert load_backbone("squeezenet1_0", weights=str(path)).weights_digest == digest


def test_digest_tells_apart_values_names_and_shapes():
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    digests = {
        weights_digest(base),
        weights_digest({**base, "b": torch.tensor([1.0, 1.0000001])}),
        weights_digest({"a": base["a"], "c": base["b"]}),
        weights_digest({**base, "a": base["a"].reshape(2, 3)}),
        weights_digest({**base, "a": base["a"].double()}),
    }
    assert len(digests) == 5
    assert weights_digest(dict(reversed(base.items()))) == weights_digest(base)


def test_batch_counters_are_not_in_the_digest(tmp_path):
    state = load_weights("resnet18", "random")
    digests = set()
    for count in (0, 1000):
        for key in state:
            if key.endswith("num_batches_tracked"):
                state[key] = torch.tensor(count)
        safetensors.torch.save_file(state, tmp_path / "w.safetensors")
        backbone = load_backbone("resnet18", weights=tmp_path / "w.safetensors", taps=["layer1"])
        digests.add(backbone.weights_digest)
    assert len(digests) == 1


def test_half_precision_weights_are_used_in_full_precision(state):
    halves = {"features.0.bias": state["features.0.bias"].half() + 1}
    wanted = {"features.0.bias": torch.empty(96, device="meta")}
    fitting = fit_weights(halves, wanted, what="these")
    assert fitting["features.0.bias"].dtype == torch.float32


def test_default_is_torchvisions_download(state, digest, tmp_path, monkeypatch):
    url = torchvision.models.SqueezeNet1_0_Weights.DEFAULT.url
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(state, checkpoints / url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert load_backbone("squeezenet1_0").weights_digest == digest


def test_old_densenet_keys_are_understood(tmp_path):
    state = load_weights("densenet121", "random")
    first = "features.denseblock1.denselayer1"
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in state.items()
    }
    assert f"{first}.conv.2.weight" in old
    torch.save(old, tmp_path / "w.pth")
    read = load_weights("densenet121", tmp_path / "w.pth")
    assert read.keys() == state.keys()


def one_line_error(weights, match, name="squeezenet1_0"):
    with pytest.raises(WeightsError, match=match) as caught:
        load_backbone(name, weights=weights, progress=False)
    assert "\n" not in str(caught.value)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    one_line_error("DEFAULT", r"squeezenet1_0 cannot be had from https://.*give its path")


def test_other_words_and_missing_files(tmp_path):
    one_line_error("default", "'default' are not understood; use DEFAULT, random")
    one_line_error(tmp_path / "none.pth", "there is no weights file .*none.pth")


def test_weights_of_another_network(state, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    one_line_error(
        path, r"do not fit vgg11: 'features.0.weight' is \(96, 3, 7, 7\).*\(64, 3, 3, 3\)", "vgg11"
    )
    del state["features.9.squeeze.bias"]
    safetensors.torch.save_file(state, path)
    one_line_error(path, r"'features.9.squeeze.bias' is missing")


def test_damaged_safetensors(state, tmp_path):
    path = tmp_path / "w.safetensors"
    whole = safetensors.torch.save(state)
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"not a file of tensors"):
        path.write_bytes(damaged)
        one_line_error(path, r"w.safetensors is damaged")


def test_damaged_torch_files(state, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(state, path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"not a file of tensors"):
        path.write_bytes(damaged)
        one_line_error(path, r"w.pth is damaged")


def test_torch_files_of_something_else(tmp_path):
    path = tmp_path / "w.pt"
    for content in ([1, 2], {"epoch": 3}, {3: torch.zeros(1)}):
        torch.save(content, path)
        one_line_error(path, "no weights by name")


class Intruder:
    """Unpickling one makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(tmp_path, zipped):
    path, trace = tmp_path / "w.pth", tmp_path / "trace"
    if zipped:
        torch.save({"weight": Intruder(str(trace))}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Intruder(str(trace))}, protocol=2))
    one_line_error(path, "need code to load")
    assert not trace.exists()


def test_unknown_network():
    with pytest.raises(BackboneError, match="unknown"):
        load_weights("vgg12", "random")
