"""Where the large products of a model are computed: with NumPy on the processors, or with torch on a graphics card."""

from quantreg.devices.device import CPU, Device, Errors
from quantreg.devices.opening import DeviceLike, open_device

__all__ = ["CPU", "Device", "DeviceLike", "Errors", "open_device"]
