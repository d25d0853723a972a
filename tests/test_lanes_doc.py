"""docs/lanes.md against the code that it quotes, and the encoder that it builds against a scalar model."""

import numpy as np
import pytest
import scratch as scratch_environment
from documents import DOCS, blocks

from quantreg_kernels._cpu import machine_levels

TEMPLATES = next(path for path in (DOCS.parent / "quantreg").rglob("_templates") if path.is_dir())
CODEC = (TEMPLATES / "cython" / "my_project" / "_my_q3.pyx").read_text()


def test_the_page_quotes_the_template():
    quoted = [block.text for block in blocks("lanes.md")]
    assert len(quoted) >= 4
    at = 0
    for text in quoted:
        assert text in CODEC
        assert CODEC.index(text) >= at, "quotations in the order of the file"
        at = CODEC.index(text) + len(text)


def test_the_page_quotes_the_whole_encoder():
    """Between the constants and the decoder, only declarations and what sets the weights to 1 are left out."""
    encoder = CODEC[CODEC.index("cdef inline") : CODEC.index("cdef Py_ssize_t decode_rows")]
    for block in blocks("lanes.md"):
        encoder = encoder.replace(block.text, "")
    left = [line.strip() for line in encoder.splitlines() if line.strip() and not line.strip().startswith("cdef ")]
    assert left == ["for i in range(BLOCK):", "w[i] = vf_set1(1)"]


def levels_nearest(x, scale):
    usable = np.abs(scale) > np.float32(1e-30)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=usable)
    return np.clip(np.rint(x * inverse[:, None]), -4, 3).astype(np.float32)


def scalar_model(rows, importance):
    """The bytes of MY_Q3, uint8 (rows, bytes): each block's sums run from its first weight to its last, in float32."""
    x = rows.reshape(-1, 32)
    w = np.ones_like(x) if importance is None else np.broadcast_to(importance, rows.shape).reshape(-1, 32)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
    scale = largest / np.float32(-4)
    q = levels_nearest(x, scale)
    above = np.zeros(len(x), np.float32)
    below = np.zeros(len(x), np.float32)
    for i in range(32):
        above += w[:, i] * x[:, i] * q[:, i]
        below += w[:, i] * q[:, i] * q[:, i]
    scale = np.divide(above, below, out=scale, where=below > 0).astype(np.float16)
    q = levels_nearest(x, scale.astype(np.float32))
    bits = (q[..., None] + 4).astype(np.uint8) >> np.arange(3) & 1
    packed = np.packbits(bits.reshape(len(x), 96), axis=1, bitorder="little")
    return np.concatenate([scale[:, None].view(np.uint8), packed], axis=1).reshape(len(rows), -1)


@pytest.mark.slow
@pytest.mark.parametrize("level", machine_levels())
def test_the_encoder_writes_the_bytes_of_a_scalar_loop(level, tmp_path_factory, tmp_path):
    scratch = scratch_environment.shared(tmp_path_factory)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((57, 544), dtype=np.float32)  # 969 blocks: the last group is not full
    x[3, :96] = 0
    x[4] *= np.float32(1e-7)  # float16 holds these scales as subnormals
    importance = rng.random(544, dtype=np.float32)
    importance[:40] = 0
    np.savez(tmp_path / "in.npz", x=x, importance=importance)
    code = (
        f"import os; os.environ['QUANTREG_CPU'] = {level!r}\n"
        "import numpy as np, quantreg\n"
        "a = np.load('in.npz')\n"
        "plain, weighted = (quantreg.quantize(a['x'], 'MY_C3', i) for i in (None, a['importance']))\n"
        "np.savez('out.npz', plain=plain, weighted=weighted, level=quantreg.types['MY_C3'].codec.level)\n"
    )
    scratch.run("-c", code, plugins="my-c3", cwd=tmp_path, check=True)
    with np.load(tmp_path / "out.npz") as out:
        assert out["level"] == level
        np.testing.assert_array_equal(out["plain"].reshape(57, -1), scalar_model(x, None))
        np.testing.assert_array_equal(out["weighted"].reshape(57, -1), scalar_model(x, importance))
