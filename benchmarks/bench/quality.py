"""Measure what calibration text gives at equal file size: KL divergence from the F16 model, on other text."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import quantreg
from bench import texts
from bench.calibrated import Source
from bench.files import folder
from bench.resampling import geometric_mean, ratio
from quantreg import QuantizedTensor

__all__ = ["MODELS", "UNIFORM", "measure"]

UNIFORM = ("Q4_K", "Q3_K", "Q2_K", "IQ3_XXS", "IQ2_XS")  # of feedback alone
SAMPLED = ("Q2_K", "Q4_K_M")  # the sizes at which samples of the calibration text are compared
QUANTIZE, PERPLEXITY = "QUANTREG_LLAMA_QUANTIZE", "QUANTREG_LLAMA_PERPLEXITY"
SEED = 0  # of the noise


@dataclass(frozen=True)
class Setup:
    """A model to measure: its file in --models, the chunks that calibrate and judge, and the file types."""

    file: str
    n_ctx: int
    chunks: int
    judged: int
    sizes: tuple[str, ...]
    role: str  # the kind of text that it was trained on


MODELS = {
    "pycode": Setup(
        "pycode-f16.gguf",
        *(256, 400, 150),
        ("IQ2_XS", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K"),
        "python",
    ),
    "smollm2": Setup(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        *(512, 24, 24),
        ("IQ3_XXS", "Q2_K", "IQ4_XS", "Q3_K_M", "Q4_K_M", "Q5_K_M"),
        "english",
    ),
}


def measure(
    models, workdir=None, only=None, sizes=None, uniform=UNIFORM, chunks=None, judged=None, samples=0, tell=print
):
    """Measure each model whose file is in the folder ``models``.

    ``only`` names the models, ``sizes`` the file types, ``uniform`` the types of feedback alone. ``chunks`` and
    ``judged``: how many chunks calibrate and judge, at most. ``samples``: cut the calibration text into so many parts,
    and calibrate on each. Returns {"rows", "feedback", "samples", "means", "notes", "failures"}.
    """
    result = {"rows": [], "feedback": [], "samples": [], "means": [], "notes": [], "failures": []}
    for variable, what in ((QUANTIZE, "llama-quantize"), (PERPLEXITY, "llama-perplexity")):
        if not os.environ.get(variable):
            result["notes"].append(f"oracle missing: {variable}=/path/to/{what} of the pinned llama.cpp")
    for name, setup in MODELS.items():
        if only and name not in only:
            continue
        if not (Path(models) / setup.file).exists():
            result["notes"].append(f"{name}: {setup.file} is not in {models}")
            continue
        with folder(workdir) as work:
            kept = Path(workdir) / f"quality-{name}.json" if workdir else None
            run = _Run(name, setup, Path(models), work, kept, chunks, judged, result, tell)
            for size in setup.sizes:
                if not sizes or size in sizes:
                    run.at_size(size)
            for qtype in uniform:
                run.alone(qtype)
            run.means()
            run.samples(samples)
    return result


class _Run:
    """The measurements of one model; adds to ``result``."""

    def __init__(self, name, setup, models, work, cache, chunks, judged, result, tell):
        self.name, self.result, self.tell, self.work = name, result, tell, work
        path = models / setup.file
        if setup.role == "english":
            path = _unrounded(path, work / "f16.gguf")
        self.fit, judges = self._texts(models, name, setup)
        self.n_ctx, self.chunks = setup.n_ctx, min(setup.chunks, chunks or setup.chunks)
        self.source = Source(path, self.fit, setup.n_ctx, self.chunks, work, cache, tell)
        count = min(setup.judged, judged or setup.judged)
        self.judges = [
            _Judge(self.source.model, path, text, setup.n_ctx, count, work / f"judge-{number}")
            for number, text in enumerate(judges)
        ]
        self.ratios = {}

    def _texts(self, models, name, setup):
        """Return (the text that calibrates, those that judge): files in the folder, or what is made here."""
        make = texts.python_source if setup.role == "python" else texts.english
        size = 4 * setup.n_ctx * max(setup.chunks, setup.judged) * 3 // 2
        given = models / f"{name}-calibration.txt"
        if given.exists():
            fit = quantreg.quality.read_text(given)
        else:
            fit, packages = make(size, texts.FIT)
            self.result["notes"].append(f"{name}: calibrated on text of {', '.join(packages)}")
        paths = sorted(models.glob(f"{name}-judge*.txt"))
        if paths:
            return fit, [quantreg.quality.read_text(path) for path in paths]
        text, packages = make(size, texts.JUDGE)
        self.result["notes"].append(f"{name}: judged on text of {', '.join(packages)}")
        return fit, [text]

    def at_size(self, size):
        """Files of one size: llama-quantize's, its types with feedback, other types, and both."""
        source = self.source
        self.tell(f"{self.name} {size}: base")
        base = source.base(size)
        self._check_base(base, size)
        before = [judge.divergences(base) for judge in self.judges]
        theirs = self._theirs(base)
        types = source.types_of(base)
        rounded = {name: t for name, t in types.items() if t not in ("F16", "F32", "BF16")}
        ways = {"types kept": lambda: (*source.fed_back(rounded), None)}
        ways |= {"allocation": lambda: self._allocated(base, False), "both": lambda: self._allocated(base, True)}
        for way, make in ways.items():
            self.tell(f"{self.name} {size}: {way}")
            tensors, kept, predicted = make()
            path = source.written(base, f"{size}-ours", tensors)
            self._compare(size, way, base, path, before, theirs, kept, predicted)
            path.unlink()

    def _allocated(self, base, feedback):
        types, predicted = self.source.allocated(base, feedback)
        self.tell(" ".join(sorted(f"{t}:{list(types.values()).count(t)}" for t in set(types.values()))))
        if not feedback:
            return self.source.ordinary(types), None, predicted
        tensors, kept = self.source.fed_back(types)
        return tensors, kept, predicted

    def _compare(self, size, way, base, path, before, theirs, kept, predicted):
        native = self._theirs(path)
        for number, judge in enumerate(self.judges):
            after = judge.divergences(path)
            point, low, high = ratio(after, before[number])
            self.ratios.setdefault((way, number), []).append(point)
            row = {
                "model": self.name,
                "text": number + 1,
                "size of": size,
                "bytes": path.stat().st_size,
                "of base": base.stat().st_size,
                "way": way,
                "base KL": float(before[number].mean()),
                "KL": float(after.mean()),
                "predicted": predicted,
                "ratio": point,
                "95 %": f"{low:.3f} to {high:.3f}",
                "kept": kept,
            }
            if native:
                row |= {"llama-perplexity: base KL": theirs[number], "KL by it": native[number]}
            self.result["rows"].append(row)
            self.tell(", ".join(f"{key} {value}" for key, value in row.items()))

    def alone(self, qtype):
        """Every matrix of the layers in one type, with and without feedback; embeddings and output as they are."""
        names = [name for name in self.source.matrices if name.startswith("blk.")]
        cols = {self.source.model.tensors[name].shape[1] for name in names}
        if any(n % quantreg.types[qtype].block_size for n in cols):
            self.result["notes"].append(f"{self.name}: not all rows take {qtype}, so feedback alone is not measured")
            return
        self.tell(f"{self.name}: feedback alone, {qtype}")
        types = dict.fromkeys(names, qtype)
        with_it, kept = self.source.fed_back(types)
        pairs = [(judge.divergences(self.source.ordinary(types)), judge.divergences(with_it)) for judge in self.judges]
        for number, (before, after) in enumerate(pairs):
            point, low, high = ratio(after, before)
            self.result["feedback"].append(
                {
                    "model": self.name,
                    "text": number + 1,
                    "type": qtype,
                    "imatrix": float(before.mean()),
                    "feedback": float(after.mean()),
                    "ratio": point,
                    "95 %": f"{low:.3f} to {high:.3f}",
                    "kept": f"{kept} of {len(names)}",
                }
            )
            self.tell(", ".join(f"{key} {value}" for key, value in self.result["feedback"][-1].items()))

    def samples(self, count):
        """The same files, calibrated on parts of the text that do not overlap."""
        if not count:
            return
        ids = quantreg.quality.token_ids(self.source.model, self.fit)[: self.chunks * self.n_ctx]
        each = len(ids) // self.n_ctx // count
        for sample in range(count):
            part = ids[sample * each * self.n_ctx : (sample + 1) * each * self.n_ctx]
            source = Source(self.source.path, part, self.n_ctx, each, self.work, None, self.tell)
            for size in SAMPLED:
                self.tell(f"{self.name} {size}: sample {sample + 1}")
                base = source.base(size)
                before = self.judges[0].divergences(base)
                types, _ = source.allocated(base, True)
                tensors, kept = source.fed_back(types)
                path = source.written(base, f"{size}-ours", tensors)
                after = self.judges[0].divergences(path)
                point, low, high = ratio(after, before)
                row = {"model": self.name, "size of": size, "sample": sample + 1, "chunks": each, "kept": kept}
                row |= {"base KL": float(before.mean()), "KL": float(after.mean()), "ratio": point}
                self.result["samples"].append(row | {"95 %": f"{low:.3f} to {high:.3f}"})
                self.tell(", ".join(f"{key} {value}" for key, value in self.result["samples"][-1].items()))
            source.model.close()

    def means(self):
        for (way, number), ratios in self.ratios.items():
            mean = geometric_mean(ratios)
            self.result["means"].append(
                {"model": self.name, "text": number + 1, "way": way, "sizes": len(ratios)}
                | {"geometric mean": mean, "largest": max(ratios)}
            )

    def _check_base(self, base, size):
        """Compare the bytes of the base with the tool's, if there is one."""
        tool = os.environ.get(QUANTIZE)
        if not tool:
            return
        imatrix, theirs = self.work / "imatrix.gguf", self.work / f"{size}-theirs.gguf"
        entries = {name: self.source.imatrix[name] for name in self.source.usual}
        quantreg.ImportanceMatrix(entries).write(imatrix, force=True)
        ours = self.work / f"{size}-again.gguf"
        quantreg.quantize_file(self.source.path, ours, size, imatrix, force=True)
        _call([tool, "--imatrix", imatrix, self.source.path, theirs, size, "2"])
        with quantreg.open(theirs) as a, quantreg.open(ours) as b:
            wrong = [
                name
                for name in a
                if a[name].type_id != b[name].type_id or not np.array_equal(a[name].data, b[name].data)
            ]
        if wrong:
            self.result["failures"].append(
                f"{self.name} {size}: {len(wrong)} tensors differ from llama-quantize's, such as {wrong[0]}"
            )
        ours.unlink()
        theirs.unlink()

    def _theirs(self, path):
        """What llama-perplexity says of a file, for each text; None without it."""
        tool = os.environ.get(PERPLEXITY)
        return [judge.native(tool, path) for judge in self.judges] if tool else None


class _Judge:
    """A text that judges: the predictions of the model at full precision, in a file."""

    def __init__(self, model, path, text, n_ctx, chunks, stem):
        self._model, self._source, self._n_ctx, self._chunks = model, path, n_ctx, chunks
        self._ids = quantreg.quality.token_ids(model, text)[: n_ctx * chunks]
        self._base, self._native, self._text = (stem.with_suffix(end) for end in (".kld", ".native", ".txt"))
        self._text.write_text(text, encoding="utf-8")
        quantreg.perplexity(model, self._ids, n_ctx=n_ctx, save_base=self._base, force=True)

    def divergences(self, changed):
        """The mean KL divergence of each chunk, in nats: of a file, or of the model with some tensors replaced."""
        means = []

        def note(event):
            if hasattr(event, "kl_mean"):
                means.append(event.kl_mean)

        model = self._model.replaced(changed) if isinstance(changed, dict) else changed
        quantreg.kl_divergence(model, self._base, progress=note)
        return np.diff(np.array(means) * np.arange(1, len(means) + 1), prepend=0.0)

    def native(self, tool, path):
        """The KL divergence that llama-perplexity measures, in nats."""
        options = ["-f", self._text, "-c", str(self._n_ctx), "--chunks", str(self._chunks), "-t", "2"]
        if not self._native.exists():
            _call([tool, "-m", self._source, *options, "--kl-divergence-base", self._native])
        told = _call([tool, "-m", path, *options, "--kl-divergence-base", self._native, "--kl-divergence"])
        found = re.search(r"Mean +KLD: +([-\d.]+)", told)
        if not found:
            raise RuntimeError(f"llama-perplexity printed no mean KLD: {told[-300:]}")
        return float(found[1])


def _call(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: exit code {done.returncode}: {done.stderr[-300:]}")
    return done.stdout + done.stderr


def _unrounded(path, target):
    """Write a Q4_1 model as F16. Uniform noise of half a step moves each weight off the lattice of Q4_1."""
    rng = np.random.default_rng(SEED)

    def moved(tensor):
        x = tensor.dequantize()
        if tensor.type_name == "Q4_1":
            blocks = np.ascontiguousarray(tensor.data).reshape(-1, 20)
            step = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
            noise = rng.uniform(-0.5, 0.5, (len(blocks), 32)).astype(np.float32)
            x = x + (noise * step).reshape(x.shape)
        return QuantizedTensor.from_array(tensor.name, x, "F16" if x.ndim > 1 else "F32")

    with quantreg.open(path) as file:
        quantreg.write(target, dict(file.metadata) | {"general.file_type": 1}, {n: moved(file[n]) for n in file})
    return target
