"""Measure on generated data what InfoEnh selects and transports; see docs/infoenh_study.md.

    python scripts/infoenh_study.py --out results/infoenh_study

Writes one CSV a measurement, and the figure as PNG and PDF.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from MMSA_ext.explain.planted_study import StudyConfig, run_study
from MMSA_ext.models.infoenh import InfoEnhConfig
from MMSA_ext.reporting.figures import infoenh_study

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no normalisation": {"normalise": False},
    "token_norm": {"infoenh": InfoEnhConfig(pool="token_norm")},
}


def main() -> None:
    """Run the study for the defaults and two variants, and draw the figure of the defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/infoenh_study"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=StudyConfig.epochs)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[pd.DataFrame]] = {}
    for variant, changes in VARIANTS.items():
        study = run_study(StudyConfig(epochs=options.epochs, **changes), range(options.seeds))
        if variant == "default":
            infoenh_study(study, options.out / "figure")
        for name, table in study.items():
            table.insert(0, "variant", variant)
            tables.setdefault(name, []).append(table)
    for name, parts in tables.items():
        joined = pd.concat(parts, ignore_index=True)
        joined.to_csv(options.out / f"{name}.csv", index=False, float_format="%.5f")


if __name__ == "__main__":
    main()
