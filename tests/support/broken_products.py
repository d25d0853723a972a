"""Versions of the toy codec with a product of their own that is broken."""

import ctypes

import numpy as np


def make(codec, write_without_gaps):
    """Return the part of BROKEN in broken_codecs.py that is about products, made with these functions of it."""

    def product(self, data, x, out):
        weights = np.empty((len(data), x.shape[1]), np.float32)
        self.decode_rows(data, weights)
        with np.errstate(all="ignore"):  # each row alone: BLAS may add differently for more rows
            out[...] = np.stack([x.astype(np.float64) @ row for row in weights], axis=1)

    def multiplies(dot_rows):
        return codec(has_dot=True, dot_rows=dot_rows)

    def by_another_scale(self, data, x, out):
        product(self, data, x, out)
        out *= np.float32(1 + 1e-4)

    def with_rounded_activations(self, data, x, out):
        step = np.abs(x).max() / 127
        product(self, data, np.rint(x / step) * step, out)

    def by_other_rows(self, data, x, out):
        product(self, data, x, out)
        out *= np.float32(1 + 1e-7 * len(data))

    def past_the_end(self, data, x, out):
        product(self, data, x, out)
        ctypes.string_at(x.ctypes.data + x.nbytes, 4)

    def without_gaps(self, data, x, out):
        products = np.empty(out.shape, np.float32)
        product(self, data, x, products)
        write_without_gaps(products, out)

    return {
        "dot_rows": lambda: multiplies(by_another_scale),
        "dot_rows, with rounded activations": lambda: multiplies(with_rounded_activations),
        "dot_rows, other rows": lambda: multiplies(by_other_rows),
        "guard_pages, products": lambda: multiplies(past_the_end),
        "strides, products": lambda: multiplies(without_gaps),
    }
