"""transformers loads each folder that export writes, and computes what quantreg computes with the GGUF file."""

import re

import checkpoints
import numpy as np
import pytest
from checkpoints.tokenizers import SIZE

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import quantreg  # noqa: E402
from quantreg.checkpoints import Config  # noqa: E402
from quantreg.checkpoints.folder import find  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own
transformers.logging.set_verbosity_error()

# The class of the others has a part that GGUF does not hold.
NAMES = [name for name in checkpoints.names() if not find(Config(checkpoints.load(name)[0]["config"]))[1].one_way]
LARGEST = 2e-5  # difference of a logit as a share of their deviation: both compute in float32, in another order
# Where GGUF cannot say what the class does; tests/test_checkpoints_golden.py shows that this alone is the difference.
GELU, RAMP = 1e-3, 1.0
DIFFERENT = {
    **dict.fromkeys(
        ("bert", "bert-masked", "xlm-roberta", "falcon-7b", "falcon-40b", "gptneox", "gptneox-sequential"), GELU
    ),
    **dict.fromkeys(("gpt-oss", "gpt-oss-decoded"), RAMP),
}


@pytest.fixture
def written(tmp_path):
    """A function that writes the F32 file of a golden, and the folder that is made of it."""

    def write(name, file_type=None, **options):
        checkpoints.write_folder(name, checkpoints.load(name)[0], tmp_path / "checkpoint")
        quantreg.convert(tmp_path / "checkpoint", tmp_path / "m.gguf", "F32")
        path = tmp_path / "m.gguf"
        if file_type is not None:
            path = quantreg.quantize_file(path, tmp_path / "q.gguf", file_type).path
        quantreg.export(path, tmp_path / "folder", **options)
        return path, tmp_path / "folder"

    return write


def loaded(folder):
    """The model as transformers loads it, after a check that no weight is missing and all are used."""
    config = transformers.AutoConfig.from_pretrained(folder)
    (kind,) = config.architectures
    encoder = kind.endswith("Model") and "LMHead" not in kind
    # GGUF has no pooler, which BERT's class would make up.
    options = {"add_pooling_layer": False} if kind == "BertModel" else {}
    auto = transformers.AutoModel if encoder else transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
    )
    # transformers has no use for layers that predict further tokens, and says so unless the model is a published one.
    further = re.compile(rf"model\.layers\.{config.get_text_config().num_hidden_layers}\.")
    unused = {name for name in info["unexpected_keys"] if not further.match(name)}
    assert not unused
    assert not {key: value for key, value in info.items() if value and key != "unexpected_keys"}
    assert type(model).__name__ == kind
    return model.float().eval()


def computed(model, ids):
    with torch.inference_mode():
        out = model(torch.tensor([ids]))
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0].float().numpy()


def difference(found, expected):
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_loads_and_computes_the_logits_of_the_checkpoint_and_of_the_file(name, written):
    path, folder = written(name)
    ids = checkpoints.token_ids(name, SIZE)
    found = computed(loaded(folder), ids)
    assert difference(found, checkpoints.load(name)[1]) <= 2e-6
    with quantreg.load(path) as model:
        own = model.logits(ids) if model.graph.generates else model.states(ids)
    assert difference(own, found) <= DIFFERENT.get(name, LARGEST)


@pytest.mark.parametrize("name", ["llama-3", "qwen3moe", "gemma3", "deepseek3", "gpt2"])
def test_a_quantized_model_computes_the_same_in_transformers(name, written):
    path, folder = written(name, "Q8_0", dtype="f32")
    ids = checkpoints.token_ids(name, SIZE)
    with quantreg.load(path) as model:
        assert difference(model.logits(ids), computed(loaded(folder), ids)) <= LARGEST


@pytest.mark.parametrize("name", ["qwen3", "falcon-7b"])
def test_the_tokenizer_of_the_folder_gives_the_ids_of_the_file(name, written):
    path, folder = written(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "the cat sat"
    with quantreg.load(path) as model:
        assert tokenizer(text)["input_ids"] == list(model.tokenizer.encode(text))


def test_greedy_text_is_the_same(written):
    path, folder = written("llama-3")
    ids = checkpoints.token_ids("llama-3", SIZE)
    with torch.inference_mode():
        model = loaded(folder)
        given = torch.tensor([ids])
        options = {"attention_mask": torch.ones_like(given), "do_sample": False, "eos_token_id": None}
        out = model.generate(given, max_new_tokens=12, **options)
    with quantreg.load(path) as own:
        for place in range(len(ids), len(ids) + 12):
            assert int(own.logits(out[0, :place].tolist())[-1].argmax()) == int(out[0, place])
