"""Repeat recorded runs of llama-quantize with `quantreg.quantize_file` and compare the files.

    python benchmarks/goldens.py --shared FOLDER [--model minilm-f16] [--only Q4_K]

FOLDER holds `models/` and `golden/*.json`. Each JSON file lists `runs`: the arguments of llama-quantize, and the sha256
of the file that it wrote or the fact that it refused. The exit code is 1 if any result differs.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import quantreg
from quantreg import gguf, recipes

FLAGS = {
    "--pure": "pure",
    "--leave-output-tensor": "leave_output_tensor",
    "--allow-requantize": "allow_requantize",
}
VALUES = {
    "--imatrix": ("imatrix", str, False),
    "--output-tensor-type": ("output_tensor_type", str, False),
    "--token-embedding-type": ("token_embedding_type", str, False),
    "--tensor-type": ("tensor_types", recipes.parse_tensor_type, True),
    "--override-kv": ("override_kv", recipes.parse_override, True),
    "--prune-layers": ("prune_layers", recipes.parse_layers, False),
    "--include-weights": ("include_weights", str, True),
    "--exclude-weights": ("exclude_weights", str, True),
}


def parse(words):
    """Turn arguments of llama-quantize, which end with the file type, into (file type, options of quantize_file)."""
    words, options = list(words), {}
    while len(words) > 1:
        flag = words.pop(0)
        if flag in FLAGS:
            options[FLAGS[flag]] = True
            continue
        name, convert, many = VALUES[flag]
        value = convert(words.pop(0))
        options[name] = (*options.get(name, ()), value) if many else value
    return words[0], options


def check(model, run, out, threads):
    """Repeat one run and return ("same" | "refused" | "missing" | "WRONG" | "NOT REFUSED" | "ERROR", detail)."""
    file_type, options = parse(run["args"])
    missing = {kind for kind, _ in run.get("tensors", {}).values()} - set(quantreg.types)
    if missing:
        return "missing", f"no plugin for {', '.join(sorted(missing))}"
    try:
        quantreg.quantize_file(model, out, file_type, threads=threads, force=True, **options)
    except quantreg.UnknownTypeError as error:
        return "missing", str(error)
    except quantreg.QuantregError as error:
        return ("ERROR" if run["ok"] else "refused"), f"{type(error).__name__}: {error}"
    if not run["ok"]:
        return "NOT REFUSED", ""
    with open(out, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return ("same", "") if found == run["file_sha256"] else ("WRONG", difference(out, run))


def difference(out, run):
    """Say which tensors differ, or that only the header does."""
    size = os.path.getsize(out)
    header = gguf.read_header(out)
    wrong = [] if size == run["size"] else [f"size {size}, expected {run['size']}"]
    if [t.name for t in header.tensors] != list(run["tensors"]):
        wrong.append("different tensors, or a different order")
    with open(out, "rb") as file:
        for info in header.tensors:
            name, digest = run["tensors"].get(info.name, ("none", ""))
            file.seek(header.data_offset + info.offset)
            found = hashlib.sha256(file.read(info.nbytes)).hexdigest()[:16]
            if info.type_name != name:
                wrong.append(f"{info.name} is {info.type_name}, expected {name}")
            elif found != digest:
                wrong.append(f"{info.name} ({name}) has different bytes")
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more if wrong else "only the header differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", required=True, metavar="FOLDER", type=Path, help="folder with models/ and golden/")
    parser.add_argument(
        "--model", action="append", help="name of a model; may be repeated (default: every golden/*.json)"
    )
    parser.add_argument("--only", metavar="TEXT", help="only runs with this text in their arguments")
    parser.add_argument("--threads", type=int, help="default: one per processor")
    parser.add_argument("--verbose", action="store_true", help="also list the runs that succeed")
    given = parser.parse_args()
    shared = given.shared.resolve()
    models = given.model or sorted(path.stem for path in (shared / "golden").glob("*.json"))
    counts = Counter()
    os.chdir(shared / "models")  # the output stores the path of the imatrix as it was given
    with tempfile.TemporaryDirectory() as work:
        for name in models:
            data = json.loads((shared / "golden" / f"{name}.json").read_text())
            begun, mine = time.perf_counter(), Counter()
            for run in data["runs"]:
                words = " ".join(run["args"])
                if given.only and given.only not in words:
                    continue
                result, detail = check(f"{name}.gguf", run, os.path.join(work, "out.gguf"), given.threads)
                mine[result] += 1
                if given.verbose or result not in ("same", "missing"):
                    print(f"{name}: {words}: {result}{': ' + detail if detail else ''}")
            counts += mine
            print(f"{name}: {_shown(mine)} in {time.perf_counter() - begun:.1f} s", flush=True)
    print(f"all: {_shown(counts)}")
    bad = sum(counts[what] for what in ("WRONG", "NOT REFUSED", "ERROR"))
    return 1 if bad or not counts else 0


def _shown(counts):
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "nothing ran"


if __name__ == "__main__":
    sys.exit(main())
