"""Run the ``quantreg`` command as ``python -m quantreg``."""

import sys

from quantreg.cli import main

sys.exit(main())
