"""From the name of a device to the device."""

import re
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from quantreg.devices.device import CPU, Device
from quantreg.errors import DeviceError

if TYPE_CHECKING:
    from quantreg.devices.torch_device import TorchDevice

__all__ = ["DeviceLike", "open_device"]

DeviceLike: TypeAlias = str | Device

_NAMES = re.compile(r"cpu|cuda(:\d+)?|mps|torch:cpu")
_INSTALL = "pip install torch"
_PAGE = "https://pytorch.org/get-started/locally"


def open_device(name: "DeviceLike | None") -> Device:
    """Return the device with this name: "cpu" (also for None), "cuda", "cuda:1", "mps" or "torch:cpu".

    The same name gives the same device, so that models share what it holds. "torch:cpu" is for tests: the way of a
    graphics card without one. Raises DeviceError if the name is unknown, torch is not installed, or torch does not find
    the device.
    """
    if isinstance(name, Device):
        return name
    if name is None or name == "cpu":
        return CPU
    if not isinstance(name, str) or not _NAMES.fullmatch(name):
        raise DeviceError(f"the device {name!r} is unknown: expected cpu, cuda, cuda:1 (a second card) or mps")
    full = "cuda:0" if name == "cuda" else name
    _check(full, _torch(name))
    with _lock:
        return _opened(full)


_lock = threading.Lock()  # a cache calls its function twice if two threads ask at the same time


@cache
def _opened(name: str) -> "TorchDevice":
    from quantreg.devices.torch_device import TorchDevice  # loads torch

    return TorchDevice(name.removeprefix("torch:"), name)


def _check(name: str, torch: Any) -> None:
    """Raise DeviceError if torch does not find the device."""
    kind, _, index = name.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise DeviceError(_no_card(torch))
        if int(index) >= count:
            cards = "is 1 card, cuda:0" if count == 1 else f"are {count} cards, cuda:0 to cuda:{count - 1}"
            raise DeviceError(f"the device {name} is not there: torch finds that there {cards}")
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("the device mps is not there: it needs a Mac with an Apple processor and macOS 14 or later")


def _torch(name: str) -> Any:
    try:
        import torch  # takes seconds to load
    except ImportError as error:
        if error.name == "torch":
            raise DeviceError(f"the device {name} needs torch, which is not installed: {_INSTALL}") from None
        raise DeviceError(f"the device {name} needs torch, which is installed but does not load: {error}") from None
    return torch


def _no_card(torch: Any) -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"the device cuda is not there: torch {torch.__version__} was built without CUDA; install one that has it: "
            f"{_PAGE} says how"
        )
    return (
        "the device cuda is not there: torch finds no graphics card; check the driver with nvidia-smi, or leave "
        "--device out to use the processors"
    )
