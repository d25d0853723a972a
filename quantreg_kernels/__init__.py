"""What compiled codecs share: the ABI, vector lanes, and the loader that picks a CPU level."""

import os
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantreg_kernels._run import Codec

__all__ = ["LEVELS", "get_include", "load_codec", "usable_levels"]

# Slowest first. avx2 and avx512 are levels of x86-64, neon is one of arm64.
LEVELS: tuple[str, ...] = ("base", "avx2", "avx512", "neon")
WORKS: tuple[str, ...] = ("plain", "weighted", "decode")  # encode without importance, encode with it, decode


def get_include() -> str:
    """The folder to pass as ``-I`` to Cython and the C compiler. It holds quantreg_kernels/abi.pxd and lanes.h."""
    return str(Path(__file__).resolve().parent.parent)


def usable_levels() -> tuple[str, ...]:
    """The CPU levels that this machine can run and that ``QUANTREG_CPU`` allows, slowest first.

    ``QUANTREG_CPU=base|avx2|avx512|neon`` forces one level. Raises ValueError if this machine cannot run it or if the
    name is unknown.
    """
    from quantreg_kernels._cpu import machine_levels, missing_features

    have = machine_levels()
    forced = os.environ.get("QUANTREG_CPU")
    if not forced:
        return have
    if forced not in LEVELS:
        raise ValueError(f"QUANTREG_CPU={forced}: unknown CPU level, use one of {', '.join(LEVELS)}")
    if forced not in have:
        lacks = ", ".join(missing_features(forced)) or "them"
        raise ValueError(f"QUANTREG_CPU={forced}: this machine runs {', '.join(have)} and lacks {lacks} for {forced}")
    return (forced,)


def load_codec(module: str, codec: str, level: str | None = None, faster_at: dict[str, str] | None = None) -> "Codec":
    """Load the codec file ``codec`` ("_q4_k") that lies beside the plugin module ``module`` (pass ``__name__``).

    The extension modules are named ``_q4_k_base``, ``_q4_k_avx2`` and so on, after `LEVELS`. The loader takes the
    highest level that was built and that this machine can run, or exactly ``level``. More lanes are not always faster:
    ``faster_at`` maps a kind of work ("plain", "weighted" or "decode", see `quantreg_kernels._run.Codec`) to the lower
    level at which it was measured to run faster. It has no effect where that level was not built, or where ``level`` or
    ``QUANTREG_CPU`` asks for one level.

    Returns a `quantreg_kernels._run.Codec`. Raises ImportError if no level fits, ValueError if ``faster_at`` holds an
    unknown kind of work or an unknown level.
    """
    from quantreg_kernels._run import Codec

    package = module.rpartition(".")[0] or module
    wanted = (level,) if level else usable_levels()
    for work, lower in (faster_at or {}).items():
        if work not in WORKS or lower not in LEVELS:
            raise ValueError(f"faster_at has {work!r}: {lower!r}, expected one of {WORKS} and one of {LEVELS}")
    built = tuple(name for name in LEVELS if util.find_spec(f"{package}.{codec}_{name}") is not None)
    usable = [name for name in built if name in wanted]
    if not usable:
        others = f" but for {', '.join(built)}: use QUANTREG_CPU={built[-1]}, or" if built else ":"
        raise ImportError(
            f"{package}.{codec} was not built for the CPU level {' or '.join(wanted)}{others} reinstall {package}"
        )

    def at(name, lower=None):
        return Codec(import_module(f"{package}.{codec}_{name}").codec, name, built, lower)

    instead = {work: lower for work, lower in (faster_at or {}).items() if lower in usable[:-1]}
    codecs = {name: at(name) for name in set(instead.values())}
    return at(usable[-1], {work: codecs[name] for work, name in instead.items()})
