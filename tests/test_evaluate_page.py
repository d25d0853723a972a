"""The web page of quantreg evaluate: what it states, and that its charts can be read everywhere."""

import random
import re
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest
import small_model
import toy
from entries import registered

import quantreg
from quantreg.evaluation import Conditions, Evaluation, Failed, Measure, Skipped, built_in_types, curve, evaluate, page
from quantreg.evaluation.curve import NARROW, WIDE, Window
from quantreg.evaluation.page_style import DARK, LIGHT


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate") / "small.gguf"
    small_model.write_model(path)
    return path


@pytest.fixture
def toy3():
    """The type TOY3 of a plugin."""
    with registered(toy.Plugin(toy.make())):
        yield


def curve_svg(totals, *how):
    return curve.curve_svg(curve.points(totals), *how)


def frontier_error(totals, *how):
    return curve.frontier_error(curve.points(totals), *how)


def windows(totals, new):
    return curve.windows(curve.points(totals), new)


def measure(name, bits, error, weights=1000, **more):
    return Measure(name, None, weights, bits, error, error, error, error, 1.0, 1.0, 1.0, **more)


@pytest.fixture
def crowd():
    """One Measure per type, many of them close together. NEW is one of them, and HALF covers half of the weights."""
    crowd = [measure(f"Q4_{i}", 4.5, 0.08 - 0.003 * i) for i in range(5)]
    crowd += [measure("Q3_S", 3.4375, 0.145), measure("Q3_K", 3.4375, 0.146), measure("Q8_0", 8.5, 0.005)]
    return [measure("NEW", 3.5, 0.15), *crowd, measure("HALF", 2.625, 0.28, weights=500)]


def random_crowd(seed, count):
    """Types at the sizes that types have, with errors that such sizes have."""
    rng = random.Random(seed)
    sizes = (2.0625, 2.5625, 3.0625, 3.4375, 3.5, 4.25, 4.5, 4.5, 5.5, 6.5625, 8.5)
    names = [f"{rng.choice(['IQ', 'Q', 'MY_', 'TQ'])}{i}_{rng.choice('KSML')}" for i in range(count)]
    return [
        measure(name, bits, 2**-bits * rng.uniform(0.8, 1.6))
        for name, bits in zip(names, rng.choices(sizes, k=count), strict=True)
    ]


def evaluation(totals, **more):
    return Evaluation("m.gguf", None, tuple(totals), (), (), **more)


# ---- reading a chart ----


class Chart:
    """The marks and texts of an SVG, as boxes in its units. Letters are as wide as those of DejaVu Sans."""

    def __init__(self, svg):
        self.size = float(re.search(r'font-size="(\d+)"', svg)[1])
        self.width, self.height = (float(n) for n in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
        number = r"(-?[\d.]+)"
        self.circles = {
            name: (float(x), float(y))
            for x, y, name in re.findall(rf'<circle [^>]*cx="{number}" cy="{number}"[^>]*><title>(.*?):', svg)
        }
        texts = re.findall(rf'<text class="(\w+)-name" x="{number}" y="{number}" text-anchor="(\w+)">(.*?)<', svg)
        self.texts = {}
        for kind, x, y, anchor, text in texts:
            width = len(text) * self.size * (0.66 if kind == "new" else 0.58)
            left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
            self.texts[text] = (left, float(y) - 0.8 * self.size, left + width, float(y) + 0.1 * self.size)
        self.leaders = [
            tuple(map(float, line)) for line in re.findall(rf'-leader" d="M{number} {number}L{number} {number}"', svg)
        ]


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def charts(text):
    return [Chart(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize(("seed", "count"), [(1, 12), (2, 30), (3, 30), (4, 30), (5, 45)])
def test_no_label_overlaps_another_or_a_dot_or_leaves_the_chart(frame, seed, count):
    totals = random_crowd(seed, count)
    chart = Chart(curve_svg(totals, [totals[0].type, totals[1].type], frame))
    assert len(chart.circles) == count
    for (one, a), (other, b) in combinations(chart.texts.items(), 2):
        assert not overlap(a, b), (one, other)
    for name, box in chart.texts.items():
        assert box[0] >= 0, name
        assert box[2] <= chart.width, name
        for dot, (x, y) in chart.circles.items():
            assert not overlap(box, (x - 4, y - 4, x + 4, y + 4)), (name, dot)


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_labels_stay_with_their_dots_in_a_crowd(frame, seed):
    totals = random_crowd(seed, 30)
    chart = Chart(curve_svg(totals, [totals[0].type], frame))
    named = chart.texts.keys() & chart.circles.keys()
    assert len(named) >= (29 if frame is WIDE else 22)
    for name in named:
        x, y = chart.circles[name]
        left, top, right, bottom = chart.texts[name]
        near = ((max(left - x, 0, x - right)) ** 2 + (max(top - y, 0, y - bottom)) ** 2) ** 0.5
        joined = any((x1, y1) == (x, y) for x1, y1, _, _ in chart.leaders)
        assert near < (30 if not joined else frame.farthest + 10), name


def test_the_new_types_are_always_named():
    for seed in range(3):
        totals = random_crowd(seed, 40)
        new = [total.type for total in totals[:3]]
        for chart in charts(page(evaluation(totals), new)):
            assert chart.texts.keys() >= chart.circles.keys() & set(new)


def test_a_dot_without_a_name_has_its_row_in_the_table():
    totals = random_crowd(7, 60)
    text = page(evaluation(totals), [totals[0].type])
    rows = dict(re.findall(r"<tr[^>]*><td class=type>(\w+)</td><td>(\d+)</td>", text))
    assert rows.keys() == {total.type for total in totals}
    for chart in charts(text):
        unnamed = chart.circles.keys() - chart.texts.keys()
        numbers = {label for label in chart.texts if label.isdigit()}
        assert numbers <= {rows[name] for name in unnamed}
    assert any(label.isdigit() for chart in charts(text) for label in chart.texts)


def test_a_window_shows_the_surroundings_of_a_new_type(crowd):
    (window,) = windows([*crowd, *random_crowd(1, 12)], ["NEW"])
    assert window == Window(2.75, 4.25, ("NEW",))
    svg = curve_svg(crowd, ["NEW"], WIDE, window)
    assert Chart(svg).circles.keys() == {"NEW", "Q3_S", "Q3_K"}
    whole, part = Chart(curve_svg(crowd, ["NEW"])), Chart(svg)
    gaps = [abs(chart.circles["Q3_S"][1] - chart.circles["NEW"][1]) for chart in (whole, part)]
    assert gaps[1] > 3 * gaps[0]
    text = page(evaluation([*crowd, *random_crowd(1, 12)]), ["NEW"])
    assert "<h2>Around NEW</h2>" in text
    assert len(charts(text)) == 4


def test_there_is_no_window_around_a_type_that_stands_alone_or_around_everything(crowd):
    assert windows(crowd, ["Q8_0"]) == []
    assert windows(crowd, [total.type for total in crowd]) == []
    assert windows((), ["NEW"]) == []


# ---- the curve ----


def test_the_curve_joins_the_types_that_beat_every_smaller_type(tmp_path):
    x = small_model.noise(3, (64, 512)).astype(np.float16)
    quantreg.write(tmp_path / "one.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    worse = toy.make(encode=lambda rows, importance: toy.encode(rows * 0, importance), name="WORSE")
    found = evaluate(tmp_path / "one.gguf", ["Q2_K", worse, "Q8_0"])
    svg = curve_svg(found.totals, ["WORSE"])
    assert svg.count("<circle") == 3
    line = next(part for part in svg.split("<path") if "frontier" in part)
    assert line.partition(" d=")[2].count("L") == 1
    assert "WORSE" in page(found, ["WORSE"])
    assert curve_svg(()) == ""


def test_a_file_type_is_a_square_and_not_part_of_the_line(crowd):
    mixed = measure("Q3_K_M", 3.9, 0.001, file_type=True)
    svg = curve_svg([*crowd, mixed], ["NEW"])
    assert re.search(r'<path class="known" d="M[^"]*Z"><title>Q3_K_M:', svg)
    assert len(Chart(svg).circles) == len(crowd)
    assert frontier_error([*crowd, mixed], 4.0, ["NEW"]) == frontier_error(crowd, 4.0, ["NEW"])
    text = page(evaluation([*crowd, mixed]), ["NEW"])
    assert "a square a file type" in text
    assert "a square" not in page(evaluation(crowd), ["NEW"])


def test_the_curve_names_its_axes_and_marks_what_is_new_or_incomplete(crowd):
    svg = curve_svg(crowd, ["NEW"])
    assert "bits per weight</text>" in svg
    assert "weighted error, relative to the RMS of the weights</text>" in svg
    assert re.findall(r'<circle class="([^"]+)"[^>]*><title>(\w+)', svg)[-1] == ("new", "NEW")
    assert '<circle class="known partly"' in svg
    assert svg.count("partly") == 1


# ---- the page ----


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "path", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag


def test_the_page_shows_the_new_type_among_the_built_ins_and_needs_no_network(run, model, tmp_path, toy3):
    code, out, err = run("evaluate", "TOY3", "--on", model, "--sample", "20k", "--html", tmp_path / "curve.html")
    assert code == 0
    assert f"{tmp_path / 'curve.html'}: the curve, together with {len(built_in_types())} other built-in types" in err
    assert {"TOY3", *built_in_types()} <= {line.split()[0] for line in out.splitlines()}
    text = (tmp_path / "curve.html").read_text()
    wide = charts(text)[0]
    assert wide.circles.keys() == {"TOY3", *built_in_types()}
    tags = Tags(text).found
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert "http" not in text
    assert "TOY3: 3.5 bits per weight, error" in text


def test_the_page_highlights_the_types_of_plugins(run, model, tmp_path, toy3):
    args = ("--on", model, "--sample", "20k", "--html", tmp_path / "curve.html")
    for names, new in ((("TOY3", "Q4_K", "Q4_K_M"), {"TOY3"}), (("Q4_K", "Q2_K"), {"Q2_K", "Q4_K"})):
        assert run("evaluate", *names, *args)[0] == 0
        text = (tmp_path / "curve.html").read_text()
        assert set(re.findall(r'<circle class="new[^>]*><title>(\w+)', text)) == new


def test_the_page_lists_the_types_that_are_missing_and_why(run, model, tmp_path):
    code, _, _ = run("evaluate", "Q4_K", "--on", model, "--sample", "20k", "--html", tmp_path / "curve.html")
    assert code == 0  # nobody asked for the types that are missing
    text = (tmp_path / "curve.html").read_text()
    missing = text.partition("Not on the curve")[2].partition("<h2>")[0]
    assert "<td class=type>IQ2_XXS</td>" in missing
    assert "IQ2_XXS cannot be encoded without importance: give an imatrix" in missing
    partly = text.partition("Not every tensor")[2].partition("<h2>")[0]
    assert "<td class=type>Q4_K</td>" in partly
    assert "could not encode blk.0.ffn_down.weight and 3 more: a row has 288 weights" in partly


def test_the_page_states_how_it_was_measured(model):
    found = evaluate(model, ["Q4_K"], sample=20000, seed=7)
    facts = page(found).partition("How it was measured")[2]
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", facts))
    assert facts.keys() == {
        "file", "weights", "importance", "architecture", "seed", "date", "processor", "system", "versions",
    }  # fmt: skip
    assert facts["file"] == "small.gguf"
    assert facts["seed"] == "7"
    assert facts["date"] == found.conditions.date
    assert f"quantreg {quantreg.__version__}" in facts["versions"]
    assert found.conditions.cpu in facts["processor"].replace("&amp;", "&")
    assert facts["weights"].startswith(f"{found.totals[0].weights:,} ")


def test_the_page_holds_no_path_of_this_machine(crowd):
    conditions = Conditions(
        "A model", "llama", 1000, 0, "2025-01-31T12:00:00Z", "A CPU", "Linux x86_64", {"quantreg": "1"}
    )
    for path in (
        "/home/someone/models/m.gguf",
        "C:\\Users\\someone\\models\\m.gguf",
        "/home/someone/m.gguf/",
        "../someone/models/m.gguf",
    ):
        reasons = (
            f"OSError: [Errno 2] No such file: '{path}'",
            f"{path}: not there",
            f"(see {path})",
            "and/or 5 M/s ~ 1/2",
        )
        found = Evaluation(
            path, path.replace("m.gguf", "imatrix.gguf"), tuple(crowd), (),
            tuple(Skipped("HALF", "a/b/c.weight", reason) for reason in reasons[:1]),
            tuple(Failed("BAD", reason) for reason in reasons), conditions,
        )  # fmt: skip
        text = page(found, ["NEW"])
        assert "m.gguf" in text
        assert "imatrix.gguf" in text
        if not path.startswith(".."):
            assert "someone" not in text
        assert "and/or 5 M/s ~ 1/2" in text
        assert "a/b/c.weight" in text


def test_the_page_adapts_to_dark_and_to_narrow_screens(crowd):
    text = page(evaluation(crowd), ["NEW"])
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert re.search(
        r"@media \(max-width: \d+px\) \{ svg\.wide \{ display: none \} svg\.narrow \{ display: block", text
    )
    tags = Tags(text)
    assert not tags.open or tags.open == []
    kinds = [attrs["class"] for tag, attrs in tags.found if tag == "svg"]
    assert kinds[:2] == ["wide", "narrow"]
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for rule in re.findall(r"#[0-9a-f]{3,6}\b", text):
        assert rule in {*LIGHT.values(), *DARK.values()}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a, b):
    """The contrast ratio of two colours as WCAG 2 defines it."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_the_background(colours):
    for name in ("text", "soft", "new"):
        assert contrast(colours[name], colours["back"]) >= 4.5
    assert contrast(colours["new"], colours["tint"]) >= 4.5
    assert contrast(colours["known"], colours["back"]) >= 3
    assert contrast(colours["line"], colours["back"]) >= 3


def test_the_page_stays_small_however_many_tensors_there_are(crowd):
    totals = random_crowd(1, 32)
    tensors = [
        measure(total.type, 4.5, 0.001 * i)
        for total in totals
        for i in range(400)
    ]  # fmt: skip
    found = Evaluation("m.gguf", None, tuple(totals), tuple(tensors), ())
    text = page(found, [totals[0].type, totals[1].type])
    assert len(text) < 300_000
    assert "The 300 largest of 800 errors" in text


def test_the_page_says_how_far_a_new_type_is_from_the_line(crowd):
    line = frontier_error(crowd, 3.5, ["NEW"])
    assert 0.068 < line < 0.145
    text = page(evaluation(crowd), ["NEW"])
    words = f"<b>NEW</b> has an error of 15.00% at 3.5 bits per weight: {0.15 / line - 1:.1%} above the line"
    assert words in text
    assert frontier_error(crowd, 1.0) is None
    rows = re.findall(r"<tr[^>]*><td class=type>(\w+)</td>", text)
    assert rows == [m.type for m in sorted(crowd, key=lambda m: (m.bits_per_weight, m.error))]


def test_names_from_a_file_are_escaped_in_the_page(tmp_path):
    name = "blk.0.<script>alert(1)</script>.weight"
    metadata = {"general.architecture": "llama", "general.name": "<script>alert(2)</script>"}
    quantreg.write(tmp_path / "x.gguf", metadata, {name: small_model.noise(1, (4, 256))})
    text = page(evaluate(tmp_path / "x.gguf", ["Q4_K"]))
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") >= 2


def test_a_page_that_cannot_be_written_or_is_the_model_is_refused_before_anything_is_measured(
    run, model, tmp_path, monkeypatch
):
    monkeypatch.setattr("quantreg.evaluate", lambda *a, **k: pytest.fail("measured"))
    before = model.read_bytes()
    for html in (model, tmp_path / "missing" / "curve.html"):
        code, _, err = run("evaluate", "Q4_0", "--on", model, "--html", html)
        assert code == 1
        assert err.startswith("quantreg: error: ")
        assert err.count("\n") == 1
        assert str(html) in err
    assert model.read_bytes() == before
