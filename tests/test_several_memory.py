"""Memory does not grow with the model, however many file types are made of it at once."""

import subprocess
import sys

from quantreg import gguf

PROGRAM = """
import sys
import quantreg

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

small, large, out, *types = sys.argv[1:]
quantreg.quantize_files(small, out, types, threads=2, force=True)
print(peak())
quantreg.quantize_files(large, out, types, threads=2, force=True)
print(peak())
"""


def sparse(path, rows):
    """A model with one matrix, whose weights are a hole in a sparse file."""
    header = gguf.encode_header(
        [("general.architecture", gguf.Value("string", "llama"))],
        [("blk.0.ffn_up.weight", (1024, rows), 1, rows * 2048)],
        32,
    )
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + rows * 2048)
    return path


def test_memory_is_bounded(tmp_path):
    """The large model takes 256 MiB, and its outputs 400; the small one has as many slabs as can be under way."""
    small, large = sparse(tmp_path / "small.gguf", 16_384), sparse(tmp_path / "large.gguf", 131_072)
    words = [small, large, tmp_path / "out-{type}.gguf", "Q8_0", "Q6_K", "Q5_K_M", "Q4_0", "Q4_1"]
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert second - first < 16
    # The interpreter and NumPy take about 60 MiB, and five types some buffers of a few MiB for each thread.
    assert second < 160
