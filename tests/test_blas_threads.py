"""A pass has threads of its own, so BLAS gets one: its threads would wait for each other on every small product."""

import numpy as np
import small_models
from threadpoolctl import ThreadpoolController

import quantreg
from quantreg.inference import attention


def threads_of_blas():
    return {each["num_threads"] for each in ThreadpoolController().select(user_api="blas").info()}


def test_blas_has_one_thread_within_a_pass_and_its_own_number_after_it(tmp_path, monkeypatch):
    small, seen, settings = small_models.build("llama"), [], attention.settings
    small_models.write(small, tmp_path / "small.gguf")
    monkeypatch.setattr(attention, "settings", lambda layer: seen.append(threads_of_blas()) or settings(layer))
    before = threads_of_blas()
    with quantreg.load(tmp_path / "small.gguf") as model:
        seen.clear()
        model.logits(np.arange(8))
    assert seen == [{1}] * model.n_layers
    assert threads_of_blas() == before
