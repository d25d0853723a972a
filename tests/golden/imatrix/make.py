"""Makes the importance matrices of the models in imatrix_models: python make.py path/to/llama-imatrix

llama-imatrix is that of llama.cpp 0c1e57098. It runs on one thread, with a key-value cache in F32 and without flash
attention. NAME.gguf is what it wrote, digests.json holds the SHA-256 of what it makes of these files, and
statistics.txt is what it says about one of them.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "support"))

import imatrix_models  # noqa: E402

EXACT = ["-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-repack"]


def main(program):
    environment = os.environ | {"LD_LIBRARY_PATH": str(Path(program).parent)}
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, options) in imatrix_models.RUNS.items():
            path = Path(folder, f"{name}.gguf")
            imatrix_models.write(model, path)
            Path(folder, "text.txt").write_bytes(imatrix_models.text(name).encode())
            command = [program, "-m", path, "-f", "text.txt", "-c", imatrix_models.n_ctx(name), "-b", "2048", *EXACT]
            command += ["--no-ppl", "-o", HERE / f"{name}.gguf", *options]
            done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, cwd=folder)
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
        digests = {}
        for name, (parts, options) in imatrix_models.COMBINED.items():
            command = [program, "-m", "none", "-o", Path(folder, name), *options]
            command += [word for part in parts for word in ("--in-file", HERE / part)]
            subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=True)
            digests[name] = hashlib.sha256(Path(folder, name).read_bytes()).hexdigest()
        Path(HERE, "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    command = [program, "-m", "none", "--in-file", "experts.gguf", "--show-statistics"]
    for _ in range(200):  # it prints from a thread, and may end before that has printed everything
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE)
        lines = [re.sub(r"^[\d.]+ I ", "", line) for line in (done.stdout + done.stderr).rstrip().splitlines()]
        if any("per layer" in line for line in lines) and lines[-1].split()[0] == "1":
            break
    else:
        raise SystemExit(done.stdout + done.stderr)
    Path(HERE, "statistics.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
