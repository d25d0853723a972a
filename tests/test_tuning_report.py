"""The report of a tuned model: its figures, its page, and that its charts can be read."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import pytest
import small_models
from calibration_text import N_CTX, ids
from hypothesis import given
from hypothesis import strategies as st

import quantreg
from quantreg.jobs.tuning_report import near, tuning_report
from quantreg.tuning.allocation import Choice, allocate
from quantreg.tuning.report import TuningReport, Variant, predicted_curve
from quantreg.tuning.report_chart import chart, recipe_line
from quantreg.tuning.report_page import page
from quantreg.tuning.tune import Tuned

QUALITY = {
    "kl_mean": 0.0125, "kl_error": 0.0003, "kl_99": 0.2, "same_top": 0.962, "perplexity": 8.5, "perplexity_base": 8.4,
    "tokens": 10240,
}  # fmt: skip
MEASURED = quantreg.Divergence(
    **dict.fromkeys(quantreg.Divergence.__dataclass_fields__, 0.0)
    | {"running": (8.1, 8.5), "warnings": ()} | QUALITY
)  # fmt: skip
RECIPES = (Variant("Q3_K_M", 90_000, 0.08), Variant("Q4_K_M", 120_000, 0.02), Variant("Q6_K", 160_000, 0.002))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "small.gguf"
    small_models.write(small_models.build("llama"), path)
    return path


@pytest.fixture
def plan(model):
    return quantreg.plan(model, "Q4_0")


def search(plan, **more):
    """What a search might have found: Q4_0 for each tensor, and what else it could have become."""
    choices, chosen = {}, {}
    for i, tensor in enumerate(t for t in plan.tensors if t.converted):
        n = tensor.n_elements
        options = [Choice("Q4_0", n * 18 // 32, 1e-3 * (i + 1)), Choice("Q8_0", n * 34 // 32, 1e-5 * (i + 1))]
        choices[tensor.name], chosen[tensor.name] = options, options[0]
    loss = sum(choice.loss for choice in chosen.values())
    reasons = dict.fromkeys(chosen, "4.2 % of the loss; one type up would cost 1.2 MB")
    facts = {"way": "calibration", "how": "the loss is a KL divergence", "loss": loss, "gap": None}
    return SimpleNamespace(choices=choices, chosen=chosen, reasons=reasons, **(facts | more))


def feedback(plan):
    return [
        Tuned(t.name, t.to_type, 0.02, 0.01, 1, 1)
        for t in plan.tensors
        if t.converted and t.name.startswith("blk.0.ffn")
    ]


@pytest.fixture
def report(plan):
    measured = {
        "model": "A <model> & more", "source": "/home/me/small.gguf", "output": "C:\\models\\out.gguf",
        "file_bytes": 125_000, "target": 126_000, "divergence": MEASURED, "variants": RECIPES,
        "conditions": {"calibration text": "a <text>"},
    }  # fmt: skip
    return TuningReport.of(plan, feedback(plan), search(plan), measured)


class Tags(HTMLParser):
    """Checks that tags are closed in order; collects texts and attributes."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.names = [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_report_holds_what_each_tensor_became_and_why(report, plan):
    converted = [t for t in plan.tensors if t.converted]
    assert [t.name for t in report.tensors] == [t.name for t in converted]
    one = next(t for t in report.tensors if t.name == "blk.0.ffn_up.weight")
    assert (one.layer, one.part, one.type, one.bits_per_weight) == (0, "ffn_up", "Q4_0", 4.5)
    assert (one.plain, one.tuned, one.kept, one.matrices, one.remark) == (0.02, 0.01, 1, 1, None)
    assert one.reason == "4.2 % of the loss; one type up would cost 1.2 MB"
    assert sum(t.share for t in report.tensors) == pytest.approx(1)
    assert report.quality == MEASURED
    assert (report.source, report.output) == ("small.gguf", "out.gguf")
    assert [v.kind for v in report.variants].count("this") == 1
    assert next(v for v in report.variants if v.kind == "this").nbytes == 125_000


def test_a_report_survives_json(report, plan):
    assert TuningReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    bare = TuningReport.of(plan, [])
    assert TuningReport.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare


def test_parts_are_in_the_order_of_a_layer(report):
    assert report.parts[0].startswith("attn")
    layer = [part for part in report.parts if part.startswith(("attn", "ffn"))]
    assert layer[-1] == "ffn_down"
    assert report.parts[: len(layer)] == tuple(layer)  # what belongs to no layer comes last


def test_the_page_is_well_formed_and_loads_nothing(report):
    text = page(report)
    tags = Tags(text)
    assert "script" not in tags.names
    assert not [value for name, value in tags.attributes if name in ("src", "href", "onload")]
    assert not re.search(r"url\((?!#)|@import|https?:", text)
    assert "A &lt;model&gt; &amp; more" in text
    assert "a &lt;text&gt;" in text
    assert "/home/me" not in text
    assert "C:\\models" not in text
    assert text.count('content="light dark"') == 1
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_every_tensor_its_type_and_what_feedback_did(report):
    text = page(report)
    for tensor in report.tensors:
        assert f"<td class=type>{tensor.name}</td>" in text
    up = next(line for line in text.splitlines() if "<td class=type>blk.0.ffn_up.weight</td>" in line)
    for figure in (">Q4_0<", ">4.5<", ">2%<", ">1%<", ">-50%<", "1 of 1", "one type up would cost"):
        assert figure in up
    for figure in ("0.0125", "8.5", "8.4", "96.2%", "10,240 predictions"):
        assert figure in text


def test_the_page_compares_with_the_recipes_of_the_same_size(report):
    between = recipe_line(report.variants, 125_000)
    assert 0.002 < between < 0.02
    assert f"{0.0125 / between:.2f} times that of the file types of llama-quantize at this size" in page(report)
    assert recipe_line(report.variants, 50_000) is None
    assert recipe_line(report.variants, 120_000) == pytest.approx(0.02)
    assert recipe_line((*RECIPES, Variant("worse", 130_000, 5.0)), 130_000) < 0.02  # a bad recipe is not the best


def test_the_charts_keep_their_marks_and_names_inside(report):
    drawn = re.findall(r"<svg.*?</svg>", chart(report), re.DOTALL)
    assert len(drawn) == 2
    for svg in drawn:
        width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
        assert svg.count("<title>") == len(report.variants)
        for name in ("Q3_K_M", "Q4_K_M", "Q6_K", "out.gguf"):
            assert f">{name}</text>" in svg
        numbers = [tuple(map(float, pair)) for pair in re.findall(r"(?<=[ML])(-?[\d.]+) (-?[\d.]+)", svg)]
        numbers += [tuple(map(float, pair)) for pair in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in numbers)
        assert 'class="frontier"' in svg


def test_a_loss_that_is_no_divergence_is_not_drawn_as_one(plan):
    by_weights = TuningReport.of(plan, [], search(plan, way="weights", how="plain error"), {"variants": RECIPES})
    assert 'class="frontier"' not in chart(by_weights)
    assert "predicts" not in page(by_weights)


def test_a_report_without_search_or_measurement_has_a_page(plan):
    bare = TuningReport.of(plan, feedback(plan))
    text = page(bare)
    Tags(text)
    assert "<svg" not in text
    assert "share of the predicted loss" not in text
    assert "types of Q4_0" in text
    assert bare.nbytes == plan.bytes


@pytest.mark.parametrize("variants", [RECIPES[:1], (), (Variant("same", 90_000, 0.0), Variant("same", 90_000, 0.0))])
def test_charts_of_few_files_are_drawn_too(plan, variants):
    for found in (None, search(plan)):
        Tags(page(TuningReport.of(plan, [], found, {"variants": variants, "file_bytes": 90_000})))


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-9, 1)), min_size=1, max_size=6), min_size=1, max_size=5
    )
)
def test_the_predicted_curve_is_never_above_what_an_allocation_reaches(tables):
    choices = {str(i): [Choice("T", n, loss) for n, loss in table] for i, table in enumerate(tables)}
    smallest = {name: min(table, key=lambda c: (c.nbytes, c.loss)) for name, table in choices.items()}
    size = sum(choice.nbytes for choice in smallest.values())
    curve = predicted_curve(choices, smallest, size + 77, most=1000)
    assert curve[0].nbytes == size + 77
    assert curve[-1].loss == pytest.approx(sum(min(c.loss for c in table) for table in choices.values()), abs=1e-9)
    rates = [(a.loss - b.loss) / (b.nbytes - a.nbytes) for a, b in pairwise(curve) if b.nbytes > a.nbytes]
    assert all(b.nbytes > a.nbytes and b.loss <= a.loss for a, b in pairwise(curve))
    assert all(later <= earlier * (1 + 1e-6) + 1e-15 for earlier, later in pairwise(rates))
    for point in curve:
        reached = sum(choice.loss for choice in allocate(choices, point.nbytes - 77).values())
        assert point.loss <= reached + 1e-9


def test_a_tuned_model_is_measured_on_text_that_decided_nothing(model, tmp_path):
    out = tmp_path / "out.gguf"
    calibration = {"calibration": ids(60 * N_CTX), "n_ctx": N_CTX}
    result = quantreg.quantize_file(model, out, "Q4_0", **calibration)
    seen = []
    report = tuning_report(model, result, ids(60 * N_CTX), n_ctx=N_CTX, recipes=("Q4_0", "Q8_0"), progress=seen.append)
    assert {event.phase for event in seen} == {"report"}
    steps = [event.done for event in seen]
    # Six chunks of the model and of each of three files, 48 for the imatrix, and two files that are made.
    assert (steps[0], steps[-1]) == (0, seen[0].total)
    assert seen[0].total == 6 * (1 + 3 + 2) + 48
    assert steps == sorted(steps)
    assert report.nbytes == out.stat().st_size
    text = ids(60 * N_CTX)[54 * N_CTX :]  # the last tenth
    expected = quantreg.kl_divergence(out, model, text, n_ctx=N_CTX)
    assert report.quality.kl_mean == pytest.approx(expected.kl_mean, rel=0.01)
    kl = {v.name: v.kl for v in report.variants}
    assert kl["out.gguf"] == report.quality.kl_mean < kl["Q4_0"]
    assert kl["Q8_0"] < kl["out.gguf"]
    assert {t.name for t in report.tensors if t.tuned is not None} == {one.name for one in result.tuned}
    assert list(tmp_path.iterdir()) == [out]
    assert "60 chunks of 32 tokens: 48 to fit, 6 to decide, 6 to report" in page(report)


def test_a_short_text_leaves_nothing_to_measure_on(model, tmp_path):
    result = quantreg.quantize_file(model, tmp_path / "out.gguf", "Q4_0", calibration=ids(8 * N_CTX), n_ctx=N_CTX)
    report = tuning_report(model, result, ids(8 * N_CTX), n_ctx=N_CTX)
    assert report.quality is None
    assert report.variants == ()
    Tags(page(report))


def test_the_file_types_next_to_a_size_are_those_to_compare_with(model):
    sizes = {name: quantreg.plan(model, name, check=False).bytes for name in near(model, 0, 8)}
    found = near(model, sorted(sizes.values())[3])
    assert 0 < len(found) <= 4
    assert near(model, 10**12) == tuple(sorted(sizes, key=lambda name: (sizes[name], name)))[-2:]


def test_the_command_writes_the_report_beside_the_file(run, model, tmp_path):
    text = tmp_path / "ids.txt"
    text.write_text(" ".join(map(str, ids(60 * N_CTX))))
    out, made = tmp_path / "out.gguf", tmp_path / "report.html"
    given = ("--calibration", text, "--ids", "-c", N_CTX)
    code, _, err = run("quantize", *given, "--report", made, model, out, "Q4_0")
    assert code == 0, err
    assert "measuring: 0%" in err
    text_of_page = made.read_text(encoding="utf-8")
    Tags(text_of_page)
    assert "<svg" in text_of_page
    assert "out.gguf from small.gguf" in text_of_page
    assert run("quantize", *given, "--force", "--report", tmp_path / "r.json", model, out, "Q4_0")[0] == 0
    found = TuningReport.from_dict(json.loads((tmp_path / "r.json").read_text(encoding="utf-8")))
    assert f"{found.quality.kl_mean:.4g}" in text_of_page


def test_a_report_is_refused_before_the_run(run, model, tmp_path):
    out, text = tmp_path / "out.gguf", tmp_path / "ids.txt"
    text.write_text(" ".join(map(str, ids(60 * N_CTX))))
    code, _, err = run("quantize", "--report", tmp_path / "r.html", model, out, "Q4_0")
    assert code == 2
    assert "give one with --calibration" in err
    given = ("--calibration", text, "--ids", "-c", N_CTX)
    assert run("quantize", *given, "--report", out, model, out, "Q4_0")[0] == 2
    for bad in (tmp_path / "none" / "r.html", text, model):
        assert run("quantize", *given, "--report", bad, model, out, "Q4_0")[0] == 1
    assert not out.exists()
    assert text.read_text().startswith("1 ")
