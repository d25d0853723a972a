"""Real distributions, built and installed into a scratch environment: what each one does there, and what is said."""

import json
import re

import numpy as np
import numpy_q4_1
import pytest
import scratch as scratch_environment
import small_model
from toy_plugins import BASE_ONLY, FAMILIES, copied_family, cut_quantreg

import quantreg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return scratch_environment.shared(tmp_path_factory)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("discovery") / "small.gguf"
    small_model.write_model(path)
    small_model.write_imatrix(path.parent / "imatrix.gguf")
    return path


def listed(scratch, plugins):
    return {p["name"]: p for p in json.loads(scratch.quantreg("plugins", "--json", plugins=plugins).stdout)}


def convert(scratch, model, out, file_type, plugins, *options):
    scratch.quantreg("quantize", *options, model, out, file_type, plugins=plugins, check=True)
    return quantreg.open(out)


@pytest.mark.parametrize("name", ["my-q3", "my-c3"])
def test_a_new_plugin_is_listed_passes_its_tests_and_quantizes_at_once(name, scratch, model, tmp_path):
    qtype = name.replace("-", "_").upper()
    found = listed(scratch, name)[qtype]
    assert found["error"] is None
    assert found["distribution"] == name
    assert found["version"] == "0.1.0"
    assert found["cpu_levels"][0] == ("python" if name == "my-q3" else "base")
    tests = scratch.run("-m", "pytest", "-q", "-p", "no:cacheprovider", scratch.sources / name, plugins=name)
    assert tests.returncode == 0, tests.stdout
    assert "failed" not in tests.stdout
    types = scratch.quantreg("types", plugins=name, check=True).stdout
    assert f"{qtype} " in types
    out = tmp_path / "out.gguf"
    scratch.quantreg("quantize", model, out, qtype, plugins=name, check=True)
    inspected = json.loads(scratch.quantreg("inspect", "--json", out, plugins=name, check=True).stdout)
    kinds = {t["name"]: t["type"] for t in inspected["tensors"]}
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.ffn_down.weight"] == qtype
    assert kinds["output_norm.weight"] == "F32"
    compared = json.loads(scratch.quantreg("compare", "--json", model, out, plugins=name).stdout)["tensors"]
    rmse = {t["name"]: t["rmse"] for t in compared}["blk.0.attn_q.weight"]
    assert 0.05 < rmse < 0.3
    x = "np.random.default_rng(1).standard_normal((4, 256), dtype=np.float32)"
    code = f"import numpy as np, quantreg as q; x = {x}; y = q.dequantize(q.quantize(x, '{qtype}'), '{qtype}')"
    code = f"{code}; print(float(np.sqrt(np.mean((x - y) ** 2))))"
    assert 0.05 < float(scratch.run("-c", code, plugins=name, check=True).stdout) < 0.3
    plan = scratch.quantreg(
        "quantize", "--dry-run", "--json", "--tensor-type", f"attn_v={qtype}", model, "Q4_K_M", plugins=name, check=True
    )
    kinds = {t["name"]: t["to"] for t in json.loads(plan.stdout)["tensors"]}
    assert kinds["blk.1.attn_v.weight"] == qtype
    assert kinds["blk.1.attn_k.weight"] == "Q4_K"


def test_a_file_of_an_unknown_type_is_listed_and_refused_with_a_hint(scratch, model, tmp_path):
    out = tmp_path / "out.gguf"
    scratch.quantreg("quantize", model, out, "MY_Q3", plugins="my-q3", check=True)
    assert scratch.quantreg("inspect", out, plugins="").returncode == 0
    again = scratch.quantreg("quantize", "--allow-requantize", out, tmp_path / "again.gguf", "Q8_0", plugins="")
    assert again.returncode == 1
    assert "Install the plugin" in again.stderr


def test_the_numpy_and_the_cython_template_encode_and_decode_alike(scratch, tmp_path):
    code = (
        "import numpy as np, quantreg\n"
        "x = np.random.default_rng(1).standard_normal((64, 512), dtype=np.float32)\n"
        "w = np.random.default_rng(2).random(512, dtype=np.float32)\n"
        "for importance in (None, w):\n"
        "    a, b = (quantreg.quantize(x, name, importance) for name in ('MY_Q3', 'MY_C3'))\n"
        "    floats = [quantreg.dequantize(a, name) for name in ('MY_Q3', 'MY_C3')]\n"
        "    print((a == b).all(), (floats[0] == floats[1]).all())\n"
    )
    done = scratch.run("-c", code, plugins="my-q3,my-c3", check=True)
    assert done.stdout.split() == ["True"] * 4


def test_a_family_copied_out_of_plugins_is_a_plugin(scratch, model, tmp_path):
    found = listed(scratch, "acme-legacy")["ACME_Q4_0"]
    assert found["error"] is None
    assert found["types"] == {"ACME_Q4_0": 5002}
    assert found["distribution"] == "acme-legacy"
    with convert(scratch, model, tmp_path / "acme.gguf", "ACME_Q4_0", "acme-legacy") as ours:
        x = small_model.tensors()["blk.0.attn_q.weight"]
        np.testing.assert_array_equal(ours["blk.0.attn_q.weight"].data, quantreg.quantize(x, "Q4_0").reshape(-1))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"legacy"}))
def test_any_other_family_copied_out_is_a_plugin_too(family, scratch, tmp_path):
    scratch.pip_install("--no-build-isolation", *BASE_ONLY, copied_family(tmp_path, family))
    name = FAMILIES[family].upper()
    code = (
        "import numpy as np, quantreg\n"
        "x = np.random.default_rng(1).standard_normal((8, 512), dtype=np.float32)\n"
        f"a, b = (quantreg.quantize(x, name) for name in ('{name}', 'ACME_{name}'))\n"
        f"print((a == b).all(), (quantreg.dequantize(a, '{name}') == quantreg.dequantize(b, 'ACME_{name}')).all())\n"
    )
    plugin = f"acme-{family}"
    assert scratch.run("-c", code, plugins=plugin, check=True).stdout.split() == ["True", "True"]
    assert listed(scratch, plugin)[f"ACME_{name}"]["error"] is None


def test_a_plugin_builds_and_runs_against_an_editable_install(model, tmp_path):
    scratch = scratch_environment.Scratch(tmp_path / "editable")
    scratch.make_environment()
    source = cut_quantreg(scratch.sources)
    build = f"--config-settings=build-dir={tmp_path / 'build'}"
    scratch.pip_install("--no-build-isolation", "--ignore-installed", *BASE_ONLY, build, "-e", source)
    shown = scratch.run("-c", "import quantreg_kernels as k, quantreg as q; print(k.get_include()); print(q.__file__)")
    assert shown.stdout.split() == [str(source), str(source / "quantreg" / "__init__.py")]
    assert set(listed(scratch, "")) == {"F32", "F16"}

    folder = copied_family(scratch.sources)
    expected = quantreg.quantize(small_model.tensors()["blk.0.attn_q.weight"], "Q4_0").reshape(-1)
    for out, options in (
        ("copied.gguf", []),
        ("editable.gguf", [f"--config-settings=build-dir={tmp_path / 'acme'}", "-e"]),
    ):
        scratch.pip_install("--no-build-isolation", *BASE_ONLY, *options, folder)
        found = listed(scratch, "acme-legacy")
        assert (set(found), found["ACME_Q4_0"]["error"]) == ({"F32", "F16", "ACME_Q4_0"}, None)
        # This quantreg has no Q6_K and Q4_K, which a plugin's type leaves to the output and the token embeddings.
        with convert(scratch, model, tmp_path / out, "ACME_Q4_0", "acme-legacy", "--pure") as ours:
            np.testing.assert_array_equal(ours["blk.0.attn_q.weight"].data.reshape(-1), expected)
    checked = scratch.quantreg("plugins", "check", "ACME_Q4_0", "--quick", plugins="acme-legacy")
    assert checked.returncode == 0, checked.stdout


def test_a_plugin_that_cannot_be_imported_disables_only_itself(scratch):
    done = scratch.quantreg("plugins", plugins="my-broken,my-q3")
    assert done.returncode == 0
    assert "MY_Q3" in done.stdout
    assert "plugin MY_BROKEN of my-broken: cannot be imported: ModuleNotFoundError" in done.stderr
    assert re.search(
        r"frobnicate' \(\S*my_broken\.py:\d+\) \(repair or reinstall it, or run: pip uninstall my-broken\)", done.stderr
    )
    asked = scratch.quantreg("estimate", "7B", "--type", "MY_BROKEN", plugins="my-broken")
    assert asked.returncode == 1
    assert "plugin MY_BROKEN of my-broken: cannot be imported" in asked.stderr


def test_an_id_clash_names_both_and_the_built_in_stays(scratch):
    found = listed(scratch, "my-clash")
    error = found["MY_CLASH"]["error"]
    assert "my-clash registers MY_CLASH with id 12, but quantreg already provides Q4_K with id 12" in error
    assert "choose another id, 1000 or above" in error
    assert found["Q4_K"]["types"] == {"Q4_K": 12}


def test_a_built_in_is_replaced_on_purpose_and_the_list_says_so(scratch, model, tmp_path):
    done = scratch.quantreg("plugins", plugins="my-q41", check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MY_Q41"))
    assert "Q4_1 (3); replaces Q4_1 of quantreg" in line
    assert listed(scratch, "my-q41")["MY_Q41"]["replaced"] == {"Q4_1": "quantreg"}
    with convert(scratch, model, tmp_path / "mine.gguf", "Q4_1", "my-q41") as mine:
        x = small_model.tensors()["blk.0.attn_q.weight"].astype(np.float32)
        np.testing.assert_array_equal(mine["blk.0.attn_q.weight"].data, numpy_q4_1.encode(x))
        lost = mine["blk.0.attn_q.weight"].dequantize() - x  # by the built-in type
        assert np.sqrt(np.mean(lost**2)) < 0.1 * x.std()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OLDER", "codec was built for quantreg ABI 0, but this quantreg has ABI 1: rebuild the plugin"),
        ("NEWER", "codec was built for quantreg ABI 2, but this quantreg has ABI 1: upgrade quantreg"),
    ],
)
def test_a_codec_of_another_abi_is_refused_with_advice(name, message, scratch, model, tmp_path):
    assert message in listed(scratch, "my-abi")[name]["error"]
    done = scratch.quantreg("quantize", model, tmp_path / "out.gguf", name, plugins="my-abi")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_quantreg_plugins_limits_what_is_loaded(scratch):
    assert "MY_Q3" not in listed(scratch, "")
    assert "MY_Q3" in listed(scratch, "my-q3")
    assert "MY_Q3" in listed(scratch, "MY_Q3")
    everything = {p["name"] for p in json.loads(scratch.quantreg("plugins", "--json").stdout)}
    assert {"MY_Q3", "MY_C3", "MY_BROKEN", "MY_CLASH", "MY_Q41", "MY_HOOKS", "ACME_Q4_0", "OLDER", "Q4_K"} <= everything


def test_a_plugins_file_type_is_taken_by_quantize(scratch, model, tmp_path):
    with convert(scratch, model, tmp_path / "mine.gguf", "mine_m", "my-hooks") as mine:
        kinds = {name: mine[name].type_name for name in mine}
    last = small_model.N_LAYER - 1
    assert kinds[f"blk.{last}.attn_v.weight"] == "Q6_K"
    assert kinds["blk.0.attn_v.weight"] == "Q5_K"
    assert kinds["blk.0.ffn_up.weight"] == "Q5_K"
    assert kinds[f"blk.{last}.ffn_up.weight"] == "Q6_K"
    assert kinds["blk.0.attn_q.weight"] == "Q4_K"
    shown = scratch.quantreg("quantize", "--dry-run", model, "MINE_M", plugins="my-hooks", check=True).stdout
    assert "attn_v, in the last layer: Q6_K" in shown
    assert "ffn_up, as attn_v of its layer" in shown


def test_a_plugins_scorer_changes_the_bytes_of_a_k_quant_as_if_passed_by_hand(scratch, model, tmp_path):
    imatrix = model.parent / "imatrix.gguf"
    columns = quantreg.ImportanceMatrix.read(imatrix)
    options = ("--imatrix", imatrix)
    with convert(scratch, model, tmp_path / "hook.gguf", "Q4_K_S", "my-hooks", *options) as hooked:
        for name, plain in (("blk.1.attn_q.weight", False), ("blk.1.attn_k.weight", True)):
            x = small_model.tensors()[name].astype(np.float32)
            row = columns.row(name, x.shape[1], 1).reshape(-1)
            importance = row if plain else np.sqrt(row) * np.abs(x)
            expected = quantreg.quantize(x, "Q4_K", importance)
            np.testing.assert_array_equal(hooked[name].data, expected)
            assert plain or not np.array_equal(expected, quantreg.quantize(x, "Q4_K", row))


def test_a_plugins_subcommand_is_run_and_in_the_help(scratch):
    assert scratch.quantreg("greet", "Ada", plugins="my-hooks", check=True).stdout == "hello Ada\n"
    assert "Say hello." in scratch.quantreg("--help", plugins="my-hooks", check=True).stdout
    assert scratch.quantreg("greet", "Ada", plugins="").returncode == 2
