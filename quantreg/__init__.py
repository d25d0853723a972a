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
    "NonFiniteError": "errors",
    "OutputError": "errors",
    "PlanError": "errors",
    "PluginError": "errors",
    "QuantType": "qtype",
    "QuantizedTensor": "tensor",
    "QuantregError": "errors",
    "ShapeError": "errors",
    "UnknownFileTypeError": "errors",
    "UnknownTypeError": "errors",
    "dequantize": "dispatch",
    "estimate_memory_gb": "sizes",
    "hookimpl": "hookspecs",
    "open": "files",
    "plan": "pipeline",
    "quantize": "dispatch",
    "quantize_file": "pipeline",
    "types": "registry",
    "write": "files",
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
