"""Makes the figures of the models in quality_models: python tests/golden/quality/make.py path/to/llama-perplexity

llama-perplexity is that of llama.cpp 0c1e57098. It runs on one thread, with a key-value cache in F32 and without flash
attention. base.dat is its base file, base.txt and rounded.txt are what it printed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "support"))

import quality_models  # noqa: E402

EXACT = ["-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-repack"]


def main(program):
    environment = os.environ | {"LD_LIBRARY_PATH": str(Path(program).parent)}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_bytes(quality_models.text().encode())
        for name in ("base", "rounded"):
            path = Path(folder, f"{name}.gguf")
            quality_models.write(getattr(quality_models, name)(), path)
            command = [program, "-m", path, "-c", quality_models.N_CTX, *EXACT]
            command += ["--kl-divergence-base", HERE / "base.dat"]
            command += ["-f", text] if name == "base" else ["--kl-divergence"]
            last = "Final estimate" if name == "base" else "Same top p:"
            for _ in range(50):  # it prints from a thread, and may end before that has printed everything
                done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
                if last in done.stdout + done.stderr:
                    break
            else:
                raise SystemExit(done.stdout + done.stderr)
            table = [line.rstrip() for line in done.stdout.splitlines() if line.strip() and "minutes" not in line]
            table += [line[line.index(last) :] for line in done.stderr.splitlines() if last in line]
            Path(HERE, f"{name}.txt").write_text("\n".join([*table, ""]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
