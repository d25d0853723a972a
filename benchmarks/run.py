"""Measure quantreg against ggml's reference and print Markdown tables. README.md in this folder has the details.

The exit code is 1 if any bytes differ from the reference's.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench import codecs, files, products, published, quality, report, running, several, startup, torch_layers
from bench.options import refuse_unknown, words
from bench.timing import cpu_model

from quantreg_kernels import LEVELS, usable_levels

SECTIONS = ("codecs", "matmul", "torch", "run", "files", "several", "convert", "memory", "open", "startup", "quality")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", type=words, default=list(SECTIONS), metavar="PART,...", help=f"default: all of {', '.join(SECTIONS)}")
    add(
        "--types",
        type=words,
        metavar="TYPE,...",
        help="types, or file types for files, memory and quality; default: all",
    )
    levels = ", ".join((*LEVELS, codecs.DEFAULT))
    add("--levels", type=words, metavar="LEVEL,...", help=f"any of {levels}; default: all that this machine supports")
    add("--works", type=words, metavar="WORK,...", help="any of plain, weighted, decode; default: all")
    add(
        "--rounds",
        type=int,
        help="samples per cell (default: 3 for files and run, 9 for startup, 5 for the others)",
    )
    add(
        "--threads", type=words, default=["1", "2"], metavar="N,...", help="numbers of threads for files (default: 1,2)"
    )
    add("--params", type=float, default=1.1e9, help="parameters of the synthetic model (default: 1.1e9, 2.2 GB)")
    add("--memory-bytes", type=float, default=8e9, help="size of the tensor for memory (default: 8e9)")
    add("--workdir", metavar="FOLDER", help="folder for temporary files (default: that of the system)")
    add("--vocab", metavar="FOLDER", help="folder of the GGUF files for open")
    add(
        "--gguf-py",
        action="store_true",
        help="also open the largest of them with gguf-py, which takes seconds and 2 GB of memory",
    )
    add("--models", metavar="FOLDER", help="folder of the models for quality")
    add("--model", type=words, metavar="NAME,...", help=f"models of quality: {', '.join(quality.MODELS)}; default: all")
    add("--uniform", type=words, default=list(quality.UNIFORM), metavar="TYPE,...", help="types of feedback alone")
    add("--chunks", type=int, help="chunks that calibrate, for quality (default: 400, or 24 of SmolLM2)")
    add("--judged", type=int, help="chunks that judge, for quality (default: 150, or 24 of SmolLM2)")
    add("--samples", type=int, default=0, help="for quality: also calibrate on each of so many parts of the text")
    add("--json", metavar="FILE", help="also write the results to this file")
    given = parser.parse_args()
    refuse_unknown(parser, "--only", given.only, SECTIONS)
    refuse_unknown(parser, "--model", given.model, quality.MODELS)
    refuse_unknown(parser, "--works", given.works, [work.split()[-1] for work in codecs.WORKS])
    for level in given.levels or ():
        if level not in (*usable_levels(), codecs.DEFAULT):
            parser.error(f"--levels {level}: this machine supports {', '.join(usable_levels())}")
    return given


def tell(text):
    print(text, file=sys.stderr, flush=True)


def machine():
    return {
        "cpu": cpu_model(),
        "level": usable_levels()[-1],
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def part_codecs(given):
    works = [work for work in codecs.WORKS if not given.works or work.split()[-1] in given.works]
    result = codecs.measure(given.types, given.levels, given.rounds or 5, tell, works)
    other = codecs.others(given.types, tell=tell)
    result |= {"others": other["cells"], "notes": result["notes"] + other["notes"]}
    text = f"## Codecs, one core, rows of {codecs.COLS}\n\n{report.codec_tables(result)}"
    if result["others"]:
        text += f"\n\n### Other Python packages\n\n{report.other_table(result['others'])}"
    return result, text


def part_matmul(given):
    result = products.measure(given.types, given.rounds or 5, tell)
    few = f"{products.FEW_ROWS} x {products.FEW_COLS}"
    title = f"## Products: activations times weights of {products.ROWS} x {products.COLS}, one row of them times {few}"
    return result, f"{title}\n\n{report.rows_table(result['rows'])}"


def part_torch(given):
    result = torch_layers.measure(given.types, given.rounds or 5, tell)
    title = f"## Layers of PyTorch, {torch_layers.WIDTH} x {torch_layers.WIDTH}, one core"
    return result, f"{title}\n\n{report.rows_table(result['rows'])}"


def part_run(given):
    result = running.measure(int(given.params), given.workdir, given.rounds or 3, given.types, tell)
    size = f"{result['params'] / 1e6:,.0f} M parameters, two threads, {running.CHUNKS} chunks of {running.CONTEXT}"
    return result, f"## Perplexity: a Llama of {size}\n\n{report.rows_table(result['rows'])}"


def part_files(given):
    threads = [int(count) for count in given.threads]
    result = files.whole_files(int(given.params), given.workdir, given.rounds or 3, given.types, threads, tell)
    size = f"{result['params'] / 1e6:,.0f} M parameters, {result['source_bytes'] / 1e9:.2f} GB"
    text = f"## Whole files: an F16 Llama of {size}\n\n{report.rows_table(result['rows'])}"
    if result["scaling"]:
        text += f"\n\n{report.rows_table(result['scaling'])}"
    return result, text


def part_several(given):
    threads = max(map(int, given.threads))
    result = several.measure(int(given.params), given.workdir, given.rounds or 1, given.types, threads, tell)
    size = f"{result['params'] / 1e6:,.0f} M parameters, {result['source_bytes'] / 1e9:.2f} GB, {threads} threads"
    title = f"## {', '.join(given.types or several.TYPES)} of an F16 Llama of {size}"
    return result, f"{title}\n\n{report.rows_table(result['rows'])}"


def part_convert(given):
    result = published.measure(int(given.params), given.workdir, given.rounds or 1, max(map(int, given.threads)), tell)
    size = f"{result['params'] / 1e6:,.0f} M parameters, {result['source_bytes'] / 1e9:.2f} GB"
    text = f"## From a published folder to {published.FILE_TYPE}: an F16 Llama of {size}"
    return result, f"{text}\n\n{report.rows_table(result['rows'])}"


def part_memory(given):
    result = files.memory(int(given.memory_bytes), given.workdir, given.types, tell)
    return result, f"## Memory: one huge F16 tensor\n\n{report.rows_table(result['rows'])}"


def part_open(given):
    if not given.vocab:
        return {
            "rows": [],
            "notes": ["nothing was opened: --vocab FOLDER names the GGUF files"],
            "failures": [],
        }, "## Opening"
    result = startup.open_files(given.vocab, given.rounds or 5, given.gguf_py, tell)
    return result, f"## Opening a file, one core\n\n{report.rows_table(result['rows'])}"


def part_startup(given):
    result = startup.startup(given.rounds or 9, tell)
    return result, f"## Start-up\n\n{report.rows_table(result['rows'])}"


def part_quality(given):
    if not given.models:
        note = "nothing was measured: --models FOLDER names the models"
        return {"rows": [], "notes": [note], "failures": []}, "## Quality at equal size"
    result = quality.measure(
        given.models,
        given.workdir,
        given.model,
        given.types,
        given.uniform,
        given.chunks,
        given.judged,
        given.samples,
        tell,
    )
    text = f"## Quality at equal size\n\n{report.rows_table(result['rows'])}\n\n{report.rows_table(result['means'])}"
    text += f"\n\n### Feedback alone\n\n{report.rows_table(result['feedback'])}"
    return result, f"{text}\n\n### Samples of the calibration text\n\n{report.rows_table(result['samples'])}"


def main():
    given = arguments()
    facts = machine()
    results, failures = {"machine": facts}, []
    print(f"# quantreg, measured\n\n{report.machine(facts)}\n", flush=True)
    for name in SECTIONS:
        if name not in given.only:
            continue
        result, text = globals()[f"part_{name}"](given)
        results[name] = result
        failures += result["failures"]
        print(text)
        if result["notes"]:
            print(f"\nNotes:\n\n{report.lines(result['notes'])}")
        print(flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(results, indent=1) + "\n")
    if failures:
        print(f"## FAILED\n\n{report.lines(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
