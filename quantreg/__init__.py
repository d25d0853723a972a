"""quantreg: GGUF quantization in which a new quant format is a folder, not a fork.

Public names are imported on first use, so that ``import quantreg`` loads no codec and no plugin.
"""

from importlib import import_module

__version__ = "0.1.0"

# public name -> module that holds it
_HOMES = {
    "CodecError": "errors",
    "FileType": "recipes",
    "GGUFFormatError": "errors",
    "ImportanceError": "errors",
    "ImportanceMatrix": "importance",
    "MetadataError": "errors",
    "NonFiniteError": "errors",
    "OutputError": "errors",
    "PlanError": "errors",
    "PluginError": "errors",
    "PythonCodec": "python_codec",
    "QuantType": "qtype",
    "QuantizedTensor": "tensor",
    "QuantregError": "errors",
    "SafetensorsError": "errors",
    "ShapeError": "errors",
    "UnknownFileTypeError": "errors",
    "UnknownTypeError": "errors",
    "compare": "verify",
    "coverage": "coverage",
    "dequantize": "dispatch",
    "edit_metadata": "repack",
    "estimate_memory_gb": "sizes",
    "export": "safetensors",
    "hash_tensors": "verify",
    "hookimpl": "hookspecs",
    "merge": "repack",
    "open": "files",
    "plan": "pipeline",
    "quantize": "dispatch",
    "quantize_events": "pipeline",
    "quantize_file": "pipeline",
    "read_plan": "pipeline",
    "split": "repack",
    "types": "registry",
    "validate": "verify",
    "write": "files",
    "write_plan": "recipes",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name):
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'quantreg' has no attribute {name!r}")
    value = getattr(import_module(f"quantreg.{home}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
