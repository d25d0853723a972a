"""The part `quality` of the benchmarks, on a tiny model: calibration lowers the divergence at equal size."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from small_models import decoder, random, write

import quantreg

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import quality_chart
from bench import texts
from bench.calibrated import Source
from bench.resampling import geometric_mean, ratio

ROOT = Path(__file__).resolve().parent.parent
CONTEXT, VOCABULARY = 32, 64


def tokens(name, chunks):
    """Ids of which the small ones are the most common, as in a text."""
    return np.minimum(abs(random(f"quality {name}", (chunks * CONTEXT,))) * 12, VOCABULARY - 1).astype(np.int32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    write(decoder("quality", "llama", layers=1, width=256, ff=256, vocab=VOCABULARY), folder / "model.gguf")
    told = []
    source = Source(folder / "model.gguf", tokens("fit", 64), CONTEXT, 64, folder, folder / "kept.json", told.append)
    yield source
    source.model.close()


@pytest.fixture(scope="module")
def divergence(source):
    ids = tokens("judge", 24)
    return lambda path: quantreg.kl_divergence(path, source.path, ids, n_ctx=CONTEXT).kl_mean


@pytest.fixture(scope="module")
def base(source):
    return source.base("Q3_K_M")


def test_feedback_lowers_the_divergence_of_a_file_type_on_other_text(source, base, divergence):
    tensors, kept = source.fed_back(source.types_of(base))
    path = source.written(base, "types-kept", tensors)
    assert kept > len(source.matrices) / 2
    assert path.stat().st_size == base.stat().st_size
    assert divergence(path) < 0.95 * divergence(base)


def test_allocation_and_feedback_lower_it_further_within_the_same_size(source, base, divergence):
    types, predicted = source.allocated(base, feedback=True)
    tensors, _ = source.fed_back(types)
    path = source.written(base, "both", tensors)
    assert predicted > 0
    assert path.stat().st_size <= base.stat().st_size
    assert divergence(path) < 0.8 * divergence(base)


def test_what_was_measured_once_serves_the_next_run(source, base):
    types, predicted = source.allocated(base, feedback=True)
    again = Source(source.path, tokens("fit", 64), CONTEXT, 64, source.folder, source.folder / "kept.json", pytest.fail)
    with again.model:
        assert again.allocated(base, feedback=True) == (types, predicted)


def test_a_file_that_is_larger_than_its_base_is_refused(source, base):
    larger = source.ordinary({source.matrices[0]: "Q8_0"})
    with pytest.raises(ValueError, match="bytes, its base"):
        source.written(base, "larger", larger)


def test_the_interval_of_a_ratio_pairs_the_chunks():
    theirs = abs(random("chunks", (50,))) + 0.01  # chunks that are as different as chunks of text
    assert ratio(0.5 * theirs, theirs) == pytest.approx((0.5, 0.5, 0.5))
    point, low, high = ratio(theirs * (0.5 + 0.05 * random("noise", (50,))), theirs)
    assert low < point < high
    assert high - low < 0.06  # without pairs it would be ten times as wide
    with pytest.raises(ValueError, match="the same chunks"):
        ratio(theirs, theirs[1:])


def test_the_geometric_mean_of_ratios():
    assert geometric_mean([0.25, 1.0]) == pytest.approx(0.5)


def test_texts_that_fit_and_judge_come_from_different_packages(tmp_path):
    root = tmp_path / "site-packages"
    for number in range(80):
        package = root / f"package{number}"
        package.mkdir(parents=True)
        (package / "code.py").write_text(f"x = {number}\n" * 400)
    fit, judge = (texts.python_source(10_000, role, [root]) for role in (texts.FIT, texts.JUDGE))
    assert len(fit[0]) >= 10_000
    assert len(judge[0]) >= 10_000
    assert not set(fit[1]) & set(judge[1])
    assert texts.python_source(10_000, texts.JUDGE, [root]) == judge


# ---- the figures that the pages show ----

MEASURED = json.loads((ROOT / "benchmarks" / "results" / "quality-pycode.json").read_text(encoding="utf-8"))


def test_the_chart_of_the_readme_is_drawn_from_the_stored_figures(tmp_path, monkeypatch):
    out = tmp_path / "chart.svg"
    stored = ROOT / "benchmarks" / "results" / "quality-pycode.json"
    monkeypatch.setattr(sys, "argv", ["quality_chart.py", str(stored), str(out)])
    quality_chart.main()
    drawn = out.read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs" / "quality-chart.svg").read_text(encoding="utf-8"), quality_chart.__doc__
    assert "(docs/quality-chart.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    titles = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("title")]
    assert len(titles) == 16
    assert "Q4_K_M: 4.26 MB, KL divergence 0.009442 nats" in titles
    assert "the size of Q4_K_M: 4.25 MB, KL divergence 0.003218 nats" in titles
    assert "prefers-color-scheme: dark" in drawn


def test_the_table_of_the_page_about_tuning_shows_the_stored_figures():
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").partition("SmolLM2-135M-Instruct has")[0]
    shown = {
        row[0]: row[1:] for row in re.findall(r"^\| (\w+) " + r"\| ([\d.]+) " * 4 + r"\| \*\*", page, re.MULTILINE)
    }
    assert len(shown) == 8
    for size, (base, *figures) in shown.items():
        rows = {row["way"]: row for row in MEASURED["quality"]["rows"] if row["size of"] == size and row["text"] == 1}
        assert float(base) == pytest.approx(rows["both"]["base KL"], rel=0.005)
        for way, figure in zip(("types kept", "allocation", "both"), figures, strict=True):
            assert float(figure) == pytest.approx(rows[way]["KL"], rel=0.005)
