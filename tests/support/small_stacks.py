"""Encodes and decodes with every built-in type in a thread with a small stack: python small_stacks.py BYTES.

A stack that is too small ends the process. The environment variable QUANTREG_CPU chooses the CPU level.
"""

import sys
import threading

import numpy as np

import quantreg
from quantreg import types

rng = np.random.default_rng(5)
rows = rng.standard_normal((3, 4096), np.float32)
columns = rng.random(4096, np.float32) + np.float32(0.1)
done = []


def every_way(name, codec, nbytes):
    data = np.empty((3, nbytes), np.uint8)
    out = np.empty((3, 4096), np.float32)
    kinds = (None, columns, np.tile(columns, (3, 1))) if codec.has_scorer else (None,)
    for importance in kinds:
        codec.encode_rows(rows, data, importance)
    if codec.has_scorer:
        codec.score_rows(rows, columns, out)
    for stream in (False, True):
        codec.decode_rows(data, out, stream)
    if codec.has_dot:
        codec.dot_rows(data, rows[:2], np.empty((2, 3), np.float32))
    quantreg.dequantize(quantreg.quantize(rows, name, importance=kinds[-1]), name)
    done.append(codec.type_id)


codecs = [(name, types[name]._load_codec(), types[name].row_bytes(4096)) for name in sys.argv[2:]]
threading.stack_size(int(sys.argv[1]))
for arguments in codecs:
    thread = threading.Thread(target=every_way, args=arguments)
    thread.start()
    thread.join()
assert done == [codec.type_id for _, codec, _ in codecs], done
print(len(done), "types")
