"""Draw the chart of docs/quality-chart.svg from what `run.py --only quality --json FILE` has measured.

python benchmarks/quality_chart.py benchmarks/results/quality-pycode.json docs/quality-chart.svg
"""

import json
import sys
from pathlib import Path

from quantreg.tuning.report import Variant
from quantreg.tuning.report_chart import picture

TEXT = 1  # the first of the texts that judge


def variants(result):
    """The files of llama-quantize's types, and those with calibration and a target of the same size."""
    for row in result["quality"]["rows"]:
        if row["way"] == "both" and row["text"] == TEXT:
            yield Variant(row["size of"], row["of base"], row["base KL"])
            yield Variant(f"the size of {row['size of']}", row["bytes"], row["KL"], "tuned")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    drawn = picture(list(variants(result)), "llama-quantize with imatrix", "quantreg with calibration")
    Path(sys.argv[2]).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
