"""How far calibration is, and how long it will take."""

import pytest

from quantreg.cli import progress
from quantreg.events import Calibrating, Started
from quantreg.tuning import rows
from quantreg.tuning.calibration import Calibration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_say_how_long_a_phase_will_take(clock, capsys):
    lines = progress._Lines()
    for seconds, event in [
        (0, Calibrating("importance", 0, 10)),
        (20, Calibrating("importance", 5, 10)),
        (300, Calibrating("feedback", 100, 1000)),  # a run that goes on
        (400, Calibrating("feedback", 200, 1000)),
        (7500, Calibrating("feedback", 400, 1000)),
        (8000, Calibrating("feedback", 1000, 1000)),
    ]:
        clock[0] = 100.0 + seconds
        lines(event)
    assert capsys.readouterr().err.splitlines() == [
        "calibration text: 0%",
        "calibration text: 50%, about 20 s left",
        "error feedback: 10%",
        "error feedback: 20%, about 13 min left",
        "error feedback: 40%, about 4.0 h left",
        "error feedback: 100%",
    ]


def test_the_bar_shows_a_speed_only_of_bytes(monkeypatch):
    import io

    import rich.console

    shown = io.StringIO()
    real = rich.console.Console
    monkeypatch.setattr(rich.console, "Console", lambda **_: real(file=shown, force_terminal=True, width=120))

    class Plan:
        tensors = ()

    with progress._bar() as listen:
        for done in range(0, 50, 10):
            listen(Calibrating("feedback", done, 50))
    assert "bytes/s" not in shown.getvalue()
    assert "error feedback" in shown.getvalue()
    with progress._bar() as listen:
        listen(Started(Plan(), 1000))
    assert "?" in shown.getvalue() or "bytes/s" in shown.getvalue()


@pytest.mark.parametrize(("across_layers", "enough"), [(False, 0), (True, 0), (True, 1 << 20)])
def test_the_cost_of_all_that_is_done_is_the_total(tmp_path, monkeypatch, across_layers, enough):
    import numpy as np
    import small_models

    import quantreg
    from quantreg.tuning import across
    from quantreg.tuning.store import Store
    from quantreg.tuning.tune import Progress, tune

    monkeypatch.setattr(across, "ENOUGH", enough)
    monkeypatch.setattr(across, "BATCH", 64)
    for name in ("llama", "llama-tied", "llama-experts"):
        small_models.write(small_models.build(name), tmp_path / f"{name}.gguf")
        with quantreg.load(tmp_path / f"{name}.gguf") as model:
            ids = np.random.default_rng(0).integers(0, 90, 640).astype(np.int32)
            calibration = Calibration.cut(model, ids, 32)
            wanted = {
                n: quantreg.types["Q4_0"] for n, t in model.tensors.items() if len(t.shape) > 1 and "gate_inp" not in n
            }
            store = Store(tmp_path / f"{name}.store", {"a": name})
            cost = []
            real = rows.Cost.add
            rows.Cost.add = lambda self, more, cost=cost, real=real: cost.append((self, more)) or real(self, more)
            try:
                done = tune(model, calibration, wanted, store, across_layers=across_layers)
                steps = [one for one in done if isinstance(one, Progress)]
            finally:
                rows.Cost.add = real
        assert steps[0].done == 0
        assert steps[-1].done == steps[-1].total
        assert sum(more for _, more in cost) == pytest.approx(cost[0][0]._total, rel=1e-6)
