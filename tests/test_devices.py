"""Devices: their names, what is missing, and which weights stay. This needs no torch; test_torch_device.py does."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import small_models

import quantreg
from quantreg import DeviceError, PlanError
from quantreg.devices import CPU, open_device
from quantreg.devices.resident import Resident


def torch_like(cards=0, cuda="12.8", mps=False):
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda, hip=None),
        cuda=SimpleNamespace(is_available=lambda: cards > 0, device_count=lambda: cards),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "llama.gguf"
    small_models.write(small_models.build("llama"), path)
    return path


def test_numpy_is_the_device_unless_another_one_is_named(model):
    assert open_device(None) is open_device("cpu") is open_device(CPU) is CPU
    with quantreg.load(model) as loaded:
        assert loaded.device is CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "", "torch:cuda", "cpu:0", 0])
def test_an_unknown_device_is_refused_with_those_there_are(name):
    with pytest.raises(DeviceError, match=r"is unknown: expected cpu, cuda, cuda:1 \(a second card\) or mps"):
        open_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "torch:cpu"])
def test_without_torch_the_error_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match="not installed: pip install torch"):
        open_device(name)


@pytest.mark.parametrize(
    ("name", "torch", "message"),
    [
        ("cuda", torch_like(cuda=None), "torch 2.13.0 was built without CUDA"),
        ("cuda", torch_like(), "torch finds no graphics card"),
        ("cuda:1", torch_like(cards=1), "there is 1 card, cuda:0"),
        ("cuda:7", torch_like(cards=2), "there are 2 cards, cuda:0 to cuda:1"),
        ("mps", torch_like(), "needs a Mac"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_what_is(monkeypatch, name, torch, message):
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(DeviceError, match=message):
        open_device(name)


def test_the_error_comes_before_the_model_is_opened(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError):
        quantreg.load("no-such-file.gguf", device="cuda")


TEXT = ["--ids", "ids.txt"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["perplexity", "MODEL", *TEXT],
        ["imatrix", "MODEL", *TEXT, "-o", "i.gguf"],
        ["quantize", "--calibration", "ids.txt", "--ids", "MODEL", "out.gguf", "Q4_0"],
        ["plan", "--calibration", "ids.txt", "--ids", "--target-bpw", "8", "MODEL", "-o", "plan.json"],
    ],
)
def test_each_command_that_runs_a_model_takes_a_device(monkeypatch, tmp_path, run, model, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "ids.txt").write_text(" ".join(str(n % 90) for n in range(2048)))
    words = [str(model) if word == "MODEL" else word for word in arguments]
    code, _, err = run(*words, "--device", "cuda")
    assert code == 1
    assert "pip install torch" in err
    assert [path.name for path in tmp_path.iterdir()] == ["ids.txt"]


def test_a_device_says_nothing_without_a_text(model, tmp_path, run):
    with pytest.raises(PlanError, match="device is about a calibration text"):
        quantreg.quantize_file(model, tmp_path / "o.gguf", "Q4_0", device="cuda")
    code, _, err = run("quantize", model, tmp_path / "o.gguf", "Q4_0", "--device", "cuda")
    assert code == 2
    assert "--device is about a calibration text" in err


# ---- which weights stay ----


class Store:
    """Weights of a model with some layers, of one byte each, and who asked for them."""

    def __init__(self, budget):
        self.resident = Resident(budget)
        self.owners = {}
        self.sent = []

    def use(self, name, layer="one", nbytes=1):
        owner = self.owners.setdefault(name, np.empty(0))

        def send():
            self.sent.append(name)
            return name.upper()

        assert self.resident.weights(name, owner, None, layer, nbytes, send) == name.upper()
        assert self.resident.used <= self.resident.budget

    def was_sent(self):
        sent, self.sent = self.sent, []
        return "".join(sent)


def test_weights_that_fit_are_sent_once():
    store = Store(3)
    for name in "abcabc":
        store.use(name)
    assert store.was_sent() == "abc"
    assert (store.resident.used, store.resident.sent) == (3, 3)


def test_a_model_that_does_not_fit_keeps_some_of_its_layers_from_pass_to_pass():
    store = Store(3)
    for name in "abcde":
        store.use(name, layer=name)
    store.was_sent()
    for name in "abcde":
        store.use(name, layer=name)
    assert "a" not in store.was_sent()  # with the oldest gone first, all would be sent again


def test_the_layer_that_is_computed_stays_while_others_go():
    store = Store(3)
    store.use("a", layer="0")
    for _ in range(4):  # batches
        for name in "bcd":
            store.use(name, layer="1")
    assert store.was_sent() == "abcd"


def test_weights_larger_than_the_budget_are_sent_each_time():
    store = Store(3)
    store.use("a")
    for _ in range(2):
        store.use("b", nbytes=4)
    assert store.was_sent() == "abb"
    assert store.resident.used == 0


def test_weights_make_room_for_other_arrays_and_these_count_while_they_live():
    store = Store(3)
    for name in "abc":
        store.use(name)
    other = store.resident.other(2, lambda: np.empty(0))
    assert (store.resident.used, store.resident.held()) == (3, 2)
    store.was_sent()
    store.use("a")
    assert store.was_sent() == ""
    del other
    assert (store.resident.used, store.resident.held()) == (1, 0)


def test_weights_whose_array_is_gone_are_not_taken_for_those_of_another():
    store = Store(3)
    store.use("a")
    del store.owners["a"]
    assert store.resident.used == 0
    store.use("a")
    assert store.was_sent() == "aa"
