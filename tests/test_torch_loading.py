"""load_into: a GGUF file becomes the model of transformers that it was converted from, tensor by tensor."""

import os

import checkpoints
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg import ShapeError  # noqa: E402
from quantreg.errors import CheckpointError  # noqa: E402
from quantreg.jobs.convert import convert  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("torch_device")]  # transformers' own
transformers.logging.set_verbosity_error()
DEVICE = os.environ.get("QUANTREG_TEST_DEVICE", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a small checkpoint, its F32 file, and its model as transformers reads it."""
    known = {}

    def make(name, type_="F32"):
        key = (name, type_)
        if key not in known:
            scratch = tmp_path_factory.mktemp(name)
            golden, _ = checkpoints.load(name)
            checkpoints.write_folder(name, golden, scratch / "folder")
            convert(scratch / "folder", scratch / "m.gguf", type_)
            known[key] = scratch / "folder", scratch / "m.gguf"
        return known[key]

    return make


def model_of(folder, values=True):
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    if values:
        return kind.from_pretrained(folder, dtype=torch.float32).eval().to(DEVICE)
    torch.manual_seed(0)
    return kind(config).to(DEVICE, torch.float32).eval()


LEFT = {"bert": {"pooler"}, "bert-masked": {"cls"}}  # what GGUF leaves out of them
FOREIGN = {"nomic-bert": "its class is not in transformers"}
_NAMES = "transformers 5 has other names, or another order, in memory than in files"
FOREIGN |= dict.fromkeys(("gemma3-sees", "mistral3-sees", "nemotron-h", "nemotron-h-experts", "qwen3vlmoe"), _NAMES)
_SEES = ("gemma4-sees", "llama4-sees", "qwen2vl", "qwen2.5vl", "qwen3vl", "qwen35-sees", "qwen35moe-sees")
FOREIGN |= dict.fromkeys((*_SEES, "xlm-roberta"), "it has a part that GGUF leaves out")
NAMES = [name for name in checkpoints.names() if name not in FOREIGN]


def same(model, expected, ids, exact=True):
    """Whether two models have the same tensors and logits. Norms that GGUF stores plus one are rounded once."""
    state, difference = model.state_dict(), {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-6, "atol": 1e-6}
    for key, value in expected.state_dict().items():
        if not key.startswith(("pooler.", "cls.")):
            torch.testing.assert_close(state[key], value, **difference, msg=key)
    with torch.no_grad():
        if "cls" in dict(model.named_children()):
            model, expected = model.base_model, expected.base_model
        torch.testing.assert_close(model(ids)[0], expected(ids)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gpt-oss"])  # transformers needs accelerate for it
def test_a_model_gets_the_tensors_that_its_folder_has(name, made):
    folder, path = made(name)
    expected, model = model_of(folder), model_of(folder, values=False)
    report = qt.load_into(model, path)
    assert not report.replaced
    assert set(report.left.values()) <= {"the file has no tensor for it"}
    assert {key.partition(".")[0] for key in report.left} == LEFT.get(name, set())
    # Norms of these are stored plus one, and rates of state spaces as powers.
    rounded = ("gemma", "granite4", "nemotron-h", "qwen35", "qwen3next")
    same(model, expected, torch.tensor([checkpoints.token_ids(name, 90)]), exact=not name.startswith(rounded))


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_layers_take_the_bytes_of_the_file(name, embeddings, made):
    """The layers with the file's bytes and those with decoded weights are the same model."""
    folder, path = made(name, "auto" if name == "gpt-oss" else "Q8_0")
    expected, model = model_of(folder, values=False), model_of(folder, values=False)
    qt.load_into(expected, path)
    report = qt.load_into(model, path, quantized=True, embeddings=embeddings)
    stored = {name for name, tensor in qt.from_gguf(path).items() if isinstance(tensor, qt.GGUFTensor)}
    for key, module in model.named_modules():
        if isinstance(module, qt.QuantLinear | qt.QuantEmbedding):
            assert report.replaced[key] == "Q8_0"
            assert module.packed.name in stored
            assert torch.equal(module.weight.dequantize(), expected.get_submodule(key).weight), key
        elif type(module) is torch.nn.Linear:
            assert report.left[key], key
    ids = torch.tensor([checkpoints.token_ids(name, 90)])
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[0], expected(ids)[0], rtol=1e-3, atol=1e-3)


def test_rows_in_another_order_are_moved_encoded(made):
    folder, path = made("llama", "Q8_0")
    model = model_of(folder, values=False)
    report = qt.load_into(model, path, quantized=True)
    assert {name.rpartition(".")[2] for name in report.replaced} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head",
    }  # fmt: skip
    assert report.reasons["model.layers.1.self_attn.q_proj"] == "the bytes of blk.1.attn_q.weight, Q8_0"
    assert report.bytes_after * 4 > report.bytes_before


def test_a_tied_model_stays_tied(made):
    folder, path = made("llama-3", "Q8_0")
    model = model_of(folder, values=False)
    report = qt.load_into(model, path, quantized=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert report.left["lm_head"] == "decoded: it is tied to model.embed_tokens: embeddings stay unless embeddings=True"
    model = model_of(folder, values=False)
    qt.load_into(model, path, quantized=True, embeddings=True)
    assert model.lm_head.packed is model.model.embed_tokens.packed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_the_model_is_kept(dtype, made):
    folder, path = made("qwen3", "Q8_0")
    model = model_of(folder, values=False).to(dtype)
    qt.load_into(model, path, quantized=True)
    ids = torch.tensor([checkpoints.token_ids("qwen3", 90)])
    assert {value.dtype for value in model.state_dict().values()} <= {dtype, torch.uint8, torch.int32}
    with torch.no_grad():
        assert model(ids).logits.dtype == dtype


def test_a_quantized_file_loads_and_generates(made, tmp_path):
    folder, _ = made("llama")
    quantreg.quantize_file(folder, tmp_path / "q.gguf", "Q4_0")
    model = model_of(folder, values=False)
    report = qt.load_into(model, tmp_path / "q.gguf", quantized=True)
    assert "Q4_0" in report.replaced.values()
    ids = torch.tensor([checkpoints.token_ids("llama", 90)])
    found = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert found.shape == (1, ids.shape[1] + 4)


def test_a_file_that_does_not_belong_to_the_model_is_refused_before_anything_is_loaded(made, tmp_path):
    folder, path = made("llama")
    other = model_of(made("qwen3")[0], values=False)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="architecture 'llama', but Qwen3ForCausalLM is 'qwen3'"):
        qt.load_into(other, path)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    with pytest.raises(CheckpointError, match="the model, a Linear, has no config: pass a model of transformers"):
        qt.load_into(torch.nn.Linear(2, 2), path)
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    with pytest.raises(CheckpointError, match="on the meta device"):
        qt.load_into(model, path)
    for change, message in (
        ({"num_hidden_layers": 1}, r"has \d+ tensors that the model does not have \(the first is blk\.1\."),
        ({"num_hidden_layers": 3}, r"lacks \d+ tensors that the model has \(the first is blk\.2\."),
    ):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config.to_dict(), **change}))
        with pytest.raises(CheckpointError, match=message):
            qt.load_into(model, path)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config.to_dict(), "intermediate_size": 64}))
    with pytest.raises(ShapeError, match=r"blk\.0\.ffn_\w+\.weight has the shape .* of the model make .*"):
        qt.load_into(model, path)
