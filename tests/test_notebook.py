"""What a notebook shows of results: tables that hold the figures, with the names from files escaped."""

from html.parser import HTMLParser

import numpy as np
import pytest
import small_model

import quantreg

EVIL = "blk.0.<script>alert('\"&1')</script>.weight"
MARKUP = {"table", "caption", "tr", "th", "td", "p"}


class Table(HTMLParser):
    """Reads the text of cells and captions, and refuses every tag that a table of ours does not need."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.caption, self._open, self._balance = [], "", None, []
        self.feed(text)
        self.close()
        assert not self._balance, f"not closed: {self._balance}"

    def handle_starttag(self, tag, attrs):
        assert tag in MARKUP, f"unexpected tag {tag}"
        assert {name for name, _ in attrs} <= {"style", "colspan"}
        self._balance.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._balance.pop() == tag

    def handle_data(self, data):
        if "caption" in self._balance:
            self.caption += data
        elif self.rows:
            self.rows[-1][-1] += data

    def row(self, first):
        """The cells after the first one, of the only row that begins with it."""
        (found,) = [row[1:] for row in self.rows if row[0] == first]
        return found


def shown(value):
    return Table(value._repr_html_())


@pytest.fixture
def model(tmp_path):
    small_model.write_model(tmp_path / "small.gguf")
    small_model.write_imatrix(tmp_path / "imatrix.gguf")
    return tmp_path / "small.gguf"


@pytest.fixture
def hostile(tmp_path):
    """A folder with a hostile name that holds a model with a hostile tensor name and key."""
    folder = tmp_path / "<b>&amp;"
    folder.mkdir()
    path = folder / "model.gguf"
    metadata = {"general.architecture": "llama", "<i>key": "<u>value"}
    quantreg.write(path, metadata, {EVIL: small_model.noise(1, (4, 256)).astype(np.float16)})
    return path


def test_a_quantize_result_shows_sizes_and_time(model, tmp_path):
    result = quantreg.quantize_file(model, tmp_path / "out.gguf", "Q4_K_M")
    table = shown(result)
    assert table.caption == str(tmp_path / "out.gguf")
    assert table.row("file type") == ["Q4_K_M"]
    assert table.row("files") == ["1"]
    assert table.row("size") == [f"{(tmp_path / 'out.gguf').stat().st_size:,} bytes"]
    assert table.row("source") == [f"{model.stat().st_size:,} bytes"]
    assert table.row("bits per weight") == [f"{result.plan.bits_per_weight:.4f}"]
    assert table.row("seconds") == [f"{result.seconds:.1f}"]
    (warnings,) = table.row("warnings")
    assert warnings == ("; ".join(result.warnings) or "none")


def test_a_plan_shows_the_decision_for_each_tensor(model):
    plan = quantreg.plan(model, "Q4_K_M")
    table = shown(plan)
    assert table.caption.startswith(f"Q4_K_M: {len(plan)} tensors, {plan.bytes:,} bytes, ")
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.shape))
        expected = [shape, tensor.from_type, tensor.to_type, f"{tensor.bytes:,}", tensor.reason]
        assert table.row(tensor.name) == expected


def test_an_open_file_shows_its_tensors(model):
    with quantreg.open(model) as file:
        table = shown(file)
        assert table.caption.startswith(f"{model}: {len(file)} tensors, ")
        for name in file:
            tensor = file[name]
            assert table.row(name) == [tensor.type_name, " x ".join(map(str, tensor.shape)), f"{tensor.nbytes:,}"]


def test_a_comparison_shows_what_differs_or_that_nothing_does(model, tmp_path):
    out = tmp_path / "out.gguf"
    quantreg.quantize_file(model, out, "Q8_0")
    found = quantreg.compare(model, out)
    table = shown(found)
    assert table.caption == f"{len(found.metadata)} keys and {len(found)} of {found.n_tensors} tensors differ"
    name = "blk.0.attn_q.weight"
    what, a, b, rmse, largest = table.row(name)
    assert (what, a, b) == ("type", "F16", "Q8_0")
    assert float(rmse) == pytest.approx(found[name].rmse, rel=1e-5)
    assert float(largest) == pytest.approx(found[name].largest, rel=1e-5)
    assert "metadata" in table.row("general.file_type")
    same = quantreg.compare(model, model)
    assert f"the same {same.n_tensors} tensors" in same._repr_html_()
    assert shown(same).rows == []


def test_a_validation_shows_its_problems(model, tmp_path):
    table = shown(quantreg.validate(model))
    assert table.caption == str(model)
    assert table.row("tensors") == [str(len(small_model.tensors()))]
    assert table.row("problems") == ["none"]
    x = np.ones((4, 256), np.float16)
    x[1, 7] = np.nan
    quantreg.write(tmp_path / "nan.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    found = quantreg.validate(tmp_path / "nan.gguf")
    assert len(found.problems) == 1
    assert shown(found).row("problems") == [found.problems[0]]


def test_an_evaluation_shows_the_total_of_each_type_smallest_first(model):
    found = quantreg.evaluate(model, ["Q8_0", "Q4_K", "F16"], sample=20_000)
    table = shown(found)
    heading, *rows = table.rows
    assert [row[0] for row in rows] == ["Q4_K", "Q8_0", "F16"]
    assert table.caption == f"{model}, without importance; not every tensor could be encoded in Q4_K"
    for total in found.totals:
        cells = dict(zip(heading[1:], table.row(total.type), strict=True))
        assert cells["weights"] == f"{total.weights:,}"
        for name, value in (
            ("bits per weight", total.bits_per_weight), ("error", total.error), ("RMSE", total.rmse),
            ("weighted error", total.weighted_error), ("largest error", total.max_error), ("cosine", total.cosine),
            ("encode, M/s", total.encode_speed), ("decode, M/s", total.decode_speed),
        ):  # fmt: skip
            assert float(cells[name]) == pytest.approx(value, rel=1e-5), name
    imatrix = model.parent / "imatrix.gguf"
    assert f"importance from {imatrix}" in shown(quantreg.evaluate(model, ["Q8_0"], imatrix, sample=2000)).caption


def test_names_from_a_file_are_escaped_everywhere(hostile, model):
    out = hostile.parent / "out.gguf"
    with quantreg.open(hostile) as file:
        assert shown(file).row(EVIL)[0] == "F16"
    assert shown(quantreg.plan(hostile, "Q8_0")).row(EVIL)[1:3] == ["F16", "Q8_0"]
    result = quantreg.quantize_file(hostile, out, "Q8_0")
    assert shown(result).caption == str(out)
    difference = shown(quantreg.compare(hostile, model))
    assert difference.row(EVIL)[0] == "only in A"
    assert "<u>value" in difference.row("<i>key")[1]
    assert shown(quantreg.validate(hostile)).caption == str(hostile)
    assert shown(quantreg.evaluate(hostile, ["Q8_0"])).caption == f"{hostile}, without importance"
    x = np.full((4, 256), np.nan, np.float16)
    quantreg.write(out, {"general.architecture": "llama"}, {EVIL: x}, force=True)
    assert EVIL in shown(quantreg.validate(out)).row("problems")[0]
