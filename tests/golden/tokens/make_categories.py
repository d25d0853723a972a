"""Prints the table of quantreg/tokenization/categories.py: python tests/golden/tokens/make_categories.py

The categories come from `unicodedata` of a Python with Unicode 15.1 (3.13), or from the package unicodedata2 15.1.0.
"""

import textwrap
import unicodedata
from itertools import groupby

if unicodedata.unidata_version != "15.1.0":
    import unicodedata2 as unicodedata  # type: ignore[import-not-found]

VERSION = "15.1.0"


def major(code):
    category = unicodedata.category(chr(code))
    return "U" if category == "Cn" else category[0]


def runs():
    """The letters of all code points, run after run: the letter and, unless it is 1, the number of code points."""
    lengths = ((letter, len(list(codes))) for letter, codes in groupby(range(0x110000), major))
    return "".join(f"{letter}{length if length > 1 else ''}" for letter, length in lengths)


if __name__ == "__main__":
    assert unicodedata.unidata_version == VERSION, f"needs Unicode {VERSION}, found {unicodedata.unidata_version}"
    print("\n".join(f'    "{line}"' for line in textwrap.wrap(runs(), 112)))
