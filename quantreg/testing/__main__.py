"""``python -P -m quantreg.testing`` checks the bytes of this installation; the exit code is 1 if any differ."""

import platform
import sys

import numpy as np

import quantreg
from quantreg.testing.selfcheck import find_differences
from quantreg_kernels import usable_levels


def main() -> int:
    """Print what differs from the known bytes, and return the exit code."""
    compared, wrong = find_differences()
    for line in wrong:
        print(line)
    print(
        f"quantreg {quantreg.__version__}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, CPU levels {', '.join(usable_levels())}: "
        f"{compared} digests compared, {len(wrong)} wrong"
    )
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
