"""quantreg: GGUF quantization in which a new quant format is a folder, not a fork.

Public names are imported on first use, so that ``import quantreg`` loads no codec and no plugin. Type checkers read
`__init__.pyi`, which a test keeps equal to the table below.
"""

import os
from importlib import import_module

# Python searches the current folder first, so in a clone it finds the source, whose kernels are not compiled.
_is_source = os.path.exists(os.path.join(os.path.dirname(__path__[0]), "meson.build"))
if _is_source and not type(__spec__.loader).__module__.startswith("_quantreg_editable"):
    raise ImportError(
        f"{__path__[0]} is quantreg's source, which is not compiled, and Python finds it before the installed package: "
        "change to another folder, or run `python -P`"
    )

# public name -> module that holds it
_HOMES = {
    "Architecture": "recipes",
    "Calibration": "tuning.calibration",
    "Checkpoint": "checkpoints",
    "CheckpointError": "errors",
    "CodecError": "errors",
    "DeviceError": "errors",
    "Comparison": "jobs.compare",
    "Coverage": "importance.coverage",
    "Divergence": "quality",
    "Evaluation": "evaluation.measure",
    "File": "files",
    "FileType": "recipes",
    "FolderResult": "jobs.results",
    "Graph": "inference.graph",
    "GGUFFormatError": "errors",
    "ImportanceError": "errors",
    "ImportanceMatrix": "importance",
    "LossWarning": "errors",
    "LazyTensor": "writing",
    "MetadataError": "errors",
    "Model": "inference.model",
    "ModelError": "errors",
    "ModelEstimate": "jobs.estimate",
    "NonFiniteError": "errors",
    "OutputError": "errors",
    "Parameters": "parameters",
    "Perplexity": "quality",
    "Plan": "recipes",
    "PlanError": "errors",
    "PlanOptions": "recipes",
    "PluginError": "errors",
    "PythonCodec": "python_codec",
    "QualityError": "errors",
    "QuantType": "registry",  # which says how a type pickles
    "QuantizeResult": "jobs.results",
    "QuantizedTensor": "tensor",
    "QuantregError": "errors",
    "RowCodec": "codec",
    "SafetensorsError": "errors",
    "ScaledCodec": "scaled",
    "Sensitivity": "tuning.sensitivity",
    "ShapeError": "errors",
    "TensorContext": "parameters",
    "TensorPlan": "recipes",
    "Tokenizer": "tokenization",
    "TokenizerError": "errors",
    "UnknownFileTypeError": "errors",
    "UnknownTypeError": "errors",
    "Validation": "jobs.verify",
    "WriteResult": "jobs.results",
    "allocate": "tuning.allocation",
    "collect_imatrix": "quality",
    "compare": "jobs.compare",
    "convert": "jobs.convert",
    "coverage": "importance.coverage",
    "dequantize": "dispatch",
    "edit_metadata": "jobs.repack",
    "estimate_memory_gb": "recipes.estimates",
    "estimate_model": "jobs.estimate",
    "evaluate": "evaluation.measure",
    "export": "jobs.export",
    "fit": "fitting",
    "hash_tensors": "jobs.verify",
    "hookimpl": "hookspecs",
    "kl_divergence": "quality",
    "load": "inference.model",
    "matmul": "products",
    "merge": "jobs.repack",
    "open": "files",
    "perplexity": "quality",
    "plan": "jobs.planning",
    "quantize": "dispatch",
    "quantize_events": "jobs.quantize",
    "quantize_file": "jobs.quantize",
    "quantize_files": "jobs.several",
    "read_plan": "jobs.planning",
    "scale_parameters": "parameters",
    "split": "jobs.repack",
    "types": "registry",
    "validate": "jobs.verify",
    "write": "writing",
    "write_plan": "recipes",
}

# modules that people use by their name, as in quantreg.gguf.Value; also imported on first use
_MODULES = ("checkpoints", "errors", "events", "gguf", "quality", "recipes", "testing")

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name):
    if name in _MODULES:
        return import_module(f"quantreg.{name}")
    home = _HOMES.get(name)
    if name == "__version__":  # written in pyproject.toml only; reading it takes longer than the rest of this module
        value = import_module("importlib.metadata").version("quantreg")
    elif home is None:
        raise AttributeError(f"module 'quantreg' has no attribute {name!r}")
    else:
        value = getattr(import_module(f"quantreg.{home}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES, *_MODULES, "__version__"})
