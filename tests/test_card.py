"""The card about the outputs of a run: what it says is true, and Markdown shows it as it is."""

import hashlib
import os
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import small_model
import small_models
from calibration_text import CALIBRATION, N_CTX, OTHER, TEXT

import quantreg
from quantreg import OutputError, PlanError, cli
from quantreg.events import Calibrating
from quantreg.jobs import card as cards
from quantreg.jobs.card import escaped


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    small_model.write_imatrix(tmp_path / "imatrix.gguf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path):
    """The table as one dict for each file."""
    lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def commands(path):
    return re.search(r"```\n(.*?)\n```", Path(path).read_text(encoding="utf-8"), re.DOTALL)[1].splitlines()


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_table_says_what_the_files_are(at, capsys):
    words = ["--imatrix", "imatrix.gguf", "--tensor-type", "attn_v=q8_0", "--leave-output-tensor", "--threads", "2"]
    out = ["small.gguf", "out-{type}.gguf", "Q8_0,Q4_K_M", "--card", "README.md", "--resumable"]
    assert cli.main(["quantize", *words, *out]) == 0
    found = rows("README.md")
    assert [(row["File"], row["Type"]) for row in found] == [
        ("out-Q8_0.gguf", "Q8_0"), ("out-Q4_K_M.gguf", "Q4_K_M")
    ]  # fmt: skip
    for row in found:
        assert row["SHA-256"] == f"`{sha256(row['File'])}`"
        assert row["Size"] == f"{os.path.getsize(row['File']) / 1e6:.2f} MB"
        plan = quantreg.plan("small.gguf", row["Type"], imatrix="imatrix.gguf", tensor_types={"attn_v": "q8_0"},
                             leave_output_tensor=True)  # fmt: skip
        assert row["Bits per weight"] == f"{plan.bits_per_weight:.2f}"
        assert "Perplexity" not in row
    # Each command makes its file.
    for row, command in zip(found, commands("README.md"), strict=True):
        before = sha256(row["File"])
        os.unlink(row["File"])
        assert cli.main(shlex.split(command)[1:]) == 0
        assert sha256(row["File"]) == before
        assert not {"--threads", "--resumable", "--card"} & set(shlex.split(command))


def test_a_single_type_has_a_card_too(at):
    assert cli.main(["quantize", "small.gguf", "out.gguf", "Q8_0", "--card", "README.md"]) == 0
    assert [row["File"] for row in rows("README.md")] == ["out.gguf"]
    assert commands("README.md") == ["quantreg quantize small.gguf out.gguf Q8_0"]


def test_a_plan_has_a_card_too(at):
    quantreg.write_plan(quantreg.plan("small.gguf", "Q4_0"), "plan.json")
    assert cli.main(["quantize", "small.gguf", "out.gguf", "--plan", "plan.json", "--card", "README.md"]) == 0
    assert commands("README.md") == ["quantreg quantize small.gguf out.gguf --plan plan.json"]


def test_shards_have_a_row_each(at):
    words = ["small.gguf", "{type}.gguf", "Q8_0,Q4_0", "--split-max-tensors", "20", "--card", "README.md"]
    assert cli.main(["quantize", *words]) == 0
    found = rows("README.md")
    assert [row["File"] for row in found][:2] == ["Q8_0-00001-of-00002.gguf", "Q8_0-00002-of-00002.gguf"]
    assert all(row["SHA-256"] == f"`{sha256(row['File'])}`" for row in found)
    assert commands("README.md")[0] == "quantreg quantize small.gguf Q8_0.gguf Q8_0 --split-max-tensors 20"


def test_python_writes_the_call_that_makes_each(at):
    quantreg.quantize_files("small.gguf", "{type}.gguf", ["Q8_0"], "imatrix.gguf", pure=True, card="README.md")
    call = commands("README.md")[0]
    assert call == "quantreg.quantize_file('small.gguf', 'Q8_0.gguf', 'Q8_0', 'imatrix.gguf', pure=True)"
    before = sha256("Q8_0.gguf")
    os.unlink("Q8_0.gguf")
    eval(call, {"quantreg": quantreg})
    assert sha256("Q8_0.gguf") == before


def test_a_card_that_exists_is_refused_before_any_work_and_replaced_with_force(at):
    Path("README.md").write_text("precious")
    words = ["quantize", "small.gguf", "{type}.gguf", "Q8_0,Q4_0", "--card", "README.md"]
    assert cli.main(words) != 0
    assert Path("README.md").read_text() == "precious"
    assert not Path("Q8_0.gguf").exists()
    assert cli.main([*words, "--force"]) == 0
    assert len(rows("README.md")) == 2


@pytest.mark.parametrize("name", ["small.gguf", "imatrix.gguf", "out-Q8_0.gguf", "no/folder.md"])
def test_a_card_replaces_no_input_and_no_output(at, capsys, name):
    before = sha256("small.gguf"), sha256("imatrix.gguf")
    words = ["quantize", "small.gguf", "out-{type}.gguf", "Q8_0,Q4_0", "--imatrix", "imatrix.gguf", "--force"]
    assert cli.main([*words, "--card", name]) != 0
    assert name.partition("/")[0] in capsys.readouterr().err
    assert (sha256("small.gguf"), sha256("imatrix.gguf")) == before
    assert not Path("out-Q4_0.gguf").exists()


def test_a_text_for_a_card_needs_a_card(at, capsys):
    assert cli.main(["quantize", "small.gguf", "out.gguf", "Q8_0", "--card-text", "imatrix.gguf"]) == 2
    with pytest.raises(PlanError, match="card"):
        quantreg.quantize_files("small.gguf", "{type}.gguf", ["Q8_0"], card_text="a text")


def test_a_run_that_ends_before_the_card_is_written_goes_on_with_it(at, monkeypatch):
    class Stop(Exception):  # noqa: N818
        pass

    def fail(event):
        if isinstance(event, Calibrating) and event.phase == "checksums":
            raise Stop

    given = ("small.gguf", "{type}.gguf", ["Q8_0", "Q4_0"])
    with pytest.raises(Stop):
        quantreg.quantize_files(*given, card="README.md", resumable=True, progress=fail)
    assert not Path("README.md").exists()
    quantreg.quantize_files(*given, card="README.md", resume=True)
    assert [row["SHA-256"] for row in rows("README.md")] == [f"`{sha256(f'{name}.gguf')}`" for name in given[2]]
    assert not [name for name in os.listdir() if "partial" in name]


# ---- what is measured ----


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llama.gguf"
    small_models.write(small_models.build("llama"), path)
    return path


def measured(row):
    return tuple(float(row[heading].split(" ± ")[0]) for heading in ("KL divergence", "Perplexity"))


def test_a_calibration_text_leaves_a_part_that_measures_the_files(llama, at):
    names = ["Q8_0", "Q4_0"]
    events = []
    quantreg.quantize_files(
        llama, "{type}.gguf", names, calibration=CALIBRATION, card="README.md", progress=events.append, **TEXT
    )
    cut = quantreg.Calibration.cut(quantreg.load(llama), CALIBRATION, N_CTX, 40)
    for row, name in zip(rows("README.md"), names, strict=True):
        found = quantreg.kl_divergence(f"{name}.gguf", llama, cut.part("report").reshape(-1), n_ctx=N_CTX)
        assert measured(row) == pytest.approx((found.kl_mean, found.perplexity), rel=0.01, abs=2e-5)
    text = Path("README.md").read_text(encoding="utf-8")
    assert f"tenth of the calibration text that decided nothing ({found.tokens} predictions" in text
    done = [event for event in events if isinstance(event, Calibrating) and event.phase == "report"]
    assert (done[-1].done, done[-1].total) == (len(cut.part("report")) * 3,) * 2
    assert not [name for name in os.listdir() if name.startswith(".quantreg-")]


def test_a_text_that_is_too_short_is_not_measured_and_the_card_says_so(llama, at):
    options = {"calibration": CALIBRATION, "n_ctx": N_CTX, "chunks": 8}
    quantreg.quantize_files(llama, "{type}.gguf", ["Q4_0"], card="README.md", **options)
    assert "Perplexity" not in rows("README.md")[0]
    assert "too short" in Path("README.md").read_text()


def test_a_model_that_cannot_run_has_a_card_that_says_why(at):
    Path("text.txt").write_text("a text " * 2000)
    words = ["small.gguf", "{type}.gguf", "Q8_0,Q4_0", "--card", "README.md", "--card-text", "text.txt"]
    assert cli.main(["quantize", *words]) == 0
    assert "The files were not measured, because" in Path("README.md").read_text()
    assert len(rows("README.md")) == 2


def test_a_text_measures_each_file(llama, at, monkeypatch):
    monkeypatch.setattr("quantreg.quality.read_text", lambda path: OTHER)  # the small model has no tokenizer
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    Path("text *1*.txt").write_text("x")
    words = [str(llama), "{type}.gguf", "Q8_0,Q4_0", "--card", "README.md", "--card-text", "text *1*.txt"]
    assert cli.main(["quantize", *words]) == 0
    assert f"quantreg perplexity Q4_0.gguf -f 'text *1*.txt' --against {llama}\n" in Path("README.md").read_text()
    for row, name in zip(rows("README.md"), ["Q8_0", "Q4_0"], strict=True):
        found = quantreg.kl_divergence(f"{name}.gguf", llama, OTHER, n_ctx=N_CTX)
        assert measured(row) == pytest.approx((found.kl_mean, found.perplexity), rel=0.01, abs=2e-5)
    assert r"measured on text \*1\*.txt (" in Path("README.md").read_text(encoding="utf-8")


def test_the_command_that_measured_a_file_measures_it_again(llama, at, monkeypatch, capsys):
    monkeypatch.setattr("quantreg.quality.read_text", lambda path: OTHER)
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    Path("text.txt").write_text("x")
    words = [str(llama), "{type}.gguf", "Q8_0,Q4_0", "--card", "README.md", "--card-text", "text.txt"]
    assert cli.main(["quantize", *words, "--card-chunks", "3"]) == 0
    assert f"({3 * (N_CTX // 2 - 1)} predictions, in chunks" in Path("README.md").read_text()
    kl, _ = measured(rows("README.md")[1])
    command = re.findall("^quantreg perplexity Q4_0.*$", Path("README.md").read_text(), re.MULTILINE)[0]
    assert command.endswith(" --chunks 3")
    capsys.readouterr()
    assert cli.main([*shlex.split(command)[1:], "-c", str(N_CTX)]) == 0
    again = float(re.search(r"Mean\s+KLD:\s+([\d.]+)", capsys.readouterr().out)[1])
    assert again == pytest.approx(kl, abs=2e-6)


def test_python_writes_the_call_that_measures_each(llama, at, monkeypatch):
    monkeypatch.setattr("quantreg.quality.read_text", lambda path: OTHER)
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    Path("text.txt").write_text("x")
    options = {"card": "README.md", "card_text": Path("text.txt"), "card_chunks": 3}
    quantreg.quantize_files(llama, "{type}.gguf", ["Q8_0", "Q4_0"], **options)
    call = re.findall(r"^quantreg\.kl_divergence.*$", Path("README.md").read_text(), re.MULTILINE)[1]
    found = eval(call.removesuffix(")") + f", n_ctx={N_CTX})", {"quantreg": quantreg})
    assert found.kl_mean == pytest.approx(measured(rows("README.md")[1])[0], abs=2e-6)
    with pytest.raises(PlanError, match="card_chunks"):
        quantreg.quantize_files(llama, "{type}.gguf", ["Q8_0"], card_chunks=3)


def test_a_picture_stands_beside_the_card_where_files_were_measured(llama, at, monkeypatch):
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    names = ["Q8_0", "Q5_0", "Q4_0"]
    options = {"card": "a card.md", "card_text": OTHER, "card_chunks": 2}
    quantreg.quantize_files(llama, "{type}.gguf", names, **options)
    text = Path("a card.md").read_text()
    assert "![KL divergence against file size](<a%20card.svg>)" in text
    drawn = ElementTree.fromstring(Path("a card.svg").read_text())
    assert set(names) <= {element.text for element in drawn.iter()}
    os.unlink("a card.md")
    with pytest.raises(OutputError, match=r"a card\.svg: exists"):  # before any work
        quantreg.quantize_files(llama, "new-{type}.gguf", names, **options)
    assert not list(Path().glob("new-*"))


@pytest.mark.parametrize("more", [{}, {"card_text": OTHER}])
def test_there_is_no_picture_of_one_file_or_of_files_that_were_not_measured(more, llama, at, monkeypatch):
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    names = ["Q8_0"] if more else ["Q8_0", "Q4_0"]
    quantreg.quantize_files(llama, "{type}.gguf", names, card="README.md", **more)
    assert "![" not in Path("README.md").read_text()
    assert not Path("README.svg").exists()


def test_a_run_that_is_stopped_while_it_measures_goes_on_with_the_files_that_are_left(llama, at, monkeypatch):
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    names = ["Q8_0", "Q5_0", "Q4_0"]
    options = {"card": "README.md", "card_text": OTHER, "card_chunks": 4}
    quantreg.quantize_files(llama, "{type}.gguf", names, **options)
    expected = rows("README.md")
    for path in (*(f"{name}.gguf" for name in names), "README.md", "README.svg"):
        os.unlink(path)
    measured, kl_divergence = [], quantreg.quality.kl_divergence

    def stopped(path, *args, **keywords):
        measured.append(path)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return kl_divergence(path, *args, **keywords)

    monkeypatch.setattr(quantreg.quality, "kl_divergence", stopped)
    with pytest.raises(KeyboardInterrupt):
        quantreg.quantize_files(llama, "{type}.gguf", names, resumable=True, **options)
    with open("README.md.quantreg-measured", "a", encoding="utf-8") as file:
        file.write('{"of": "half a li')  # as a kill leaves it
    measured.clear()
    quantreg.quantize_files(llama, "{type}.gguf", names, resume=True, **options)
    assert measured == ["Q4_0.gguf"]
    assert rows("README.md") == expected
    assert sorted(os.listdir()) == sorted(
        [*(f"{name}.gguf" for name in names), "README.md", "README.svg", "small.gguf", "imatrix.gguf"]
    )


@pytest.mark.parametrize("change", ["text", "chunks", "file"])
def test_what_was_measured_on_something_else_is_not_used(change, llama, at, monkeypatch):
    monkeypatch.setattr(cards, "N_CTX", N_CTX)
    given = {"card": "README.md", "card_text": OTHER, "card_chunks": 3}
    quantreg.quantize_files(llama, "{type}.gguf", ["Q8_0", "Q4_0"], **given)
    expected = rows("README.md")
    unlink = os.unlink  # what was measured in a first run stays
    monkeypatch.setattr(os, "unlink", lambda path, **k: "measured" in str(path) or unlink(path, **k))
    other = given | {"text": {"card_text": OTHER[::-1]}, "chunks": {"card_chunks": 2}, "file": {"pure": True}}[change]
    names = ["Q5_0", "Q4_1"] if change == "file" else ["Q8_0", "Q4_0"]
    quantreg.quantize_files(llama, "{type}.gguf", names, resumable=True, force=True, **other)
    assert Path("README.md.quantreg-measured").exists()
    quantreg.quantize_files(llama, "{type}.gguf", ["Q8_0", "Q4_0"], resumable=True, force=True, **given)
    assert rows("README.md") == expected


# ---- names ----


def test_names_are_escaped(at):
    name = "a|b`c*[d](e)<f>_g_\n_h"
    os.mkdir(name)
    out = f"{name}/x|`y`\n-{{type}}.gguf"
    assert cli.main(["quantize", "small.gguf", out, "Q8_0,Q4_0", "--card", "README.md"]) == 0
    row = rows("README.md")[0]
    assert row["File"] == r"x\|\`y\`\\n-Q8_0.gguf"
    text = Path("README.md").read_text()
    fence = re.search("^(`{3,})$", text, re.MULTILINE)[1]
    inner = text.split(f"\n{fence}\n")[1]
    assert fence not in inner
    assert "$'a|b`c*[d](e)<f>_g_\\x0a_h/x|`y`\\x0a-Q8_0.gguf'" in inner


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Q4_K_M.gguf", "Q4_K_M.gguf"), ("_a_", r"\_a\_"), ("a|b", r"a\|b"), ("a\\|b", r"a\\\|b"), ("<b>", r"\<b\>"),
        ("a\nb", r"a\\nb"), ("\x1b[31m", r"\\x1b\[31m"), ("日本", "日本"), ("\udcff", r"\\udcff"),
    ],
)  # fmt: skip
def test_markdown_shows_a_name_as_it_is(name, shown):
    assert escaped(name) == shown


def test_nothing_but_the_card_is_written_when_the_outputs_stand(at, monkeypatch):
    """Each output is read once for its digest."""
    opened = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (opened.append(file.name), digest(file, name))[1])
    quantreg.quantize_files("small.gguf", "{type}.gguf", ["Q8_0", "Q4_0"], card="README.md")
    assert sorted(opened) == ["Q4_0.gguf", "Q8_0.gguf"]
    with pytest.raises(OutputError, match="exists"):
        quantreg.quantize_files("small.gguf", "new-{type}.gguf", ["Q8_0"], card="README.md")
