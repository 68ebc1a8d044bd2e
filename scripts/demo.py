"""Trains the text-only control and DashFusion on the embedded data, and says what came of it.

python scripts/demo.py FOLDER
"""

import sys
from pathlib import Path

from MMSA_ext import MMSA_run
from MMSA_ext.data.demo import demo_features, demo_optimum
from MMSA_ext.reporting.render import number, table_of, to_text

# Short on purpose: a first impression in minutes, not a result to report.
SETTINGS = {"pretrained": "minilm", "num_epochs": 6, "learning_rate": 2e-4}
MODELS = {"text_only": "text alone", "dashfusion": "DashFusion: text, audio, vision"}
BOUNDS = {"text": "best possible with text", "text+audio+vision": "best possible with all three"}


def verdict(text: float, fused: float, best_text: float, best: float, constant: float) -> str:
    """Whether two mean absolute errors are as they should be, in a sentence."""
    if text < best_text or fused < best:
        return "Not as expected: an error is below the best possible, so something leaks."
    if text >= constant:
        return "Not as expected: text alone is no better than the best constant; nothing is learnt."
    if fused >= text:
        return "Not as expected: audio and vision do not make the error of text alone smaller."
    gain = f"audio and vision take {1 - fused / text:.0%} off the error of text alone"
    if fused >= best_text:
        return f"As expected: {gain}, which one seed may do by chance."
    return f"As expected: {gain}, to less than the best that text can give."


def main(folder: Path) -> None:
    """Train both, or look them up where they are trained already, and print one table."""
    features = demo_features("mosi", folder / "results")
    errors, rows = [], []
    for model, name in MODELS.items():
        (seed,) = MMSA_run(
            model,
            "mosi",
            config=SETTINGS,
            seeds=[1111],
            custom_feature=features,
            gpu_ids="cpu",
            model_save_dir=folder / "models",
            res_save_dir=folder / "results",
            log_dir=folder / "logs",
        ).seeds
        if seed.diverged:
            sys.exit(f"Not as expected: {model} diverged. {seed.record.reason}")
        errors.append(seed.metrics["MAE"])
        rows.append((name, seed.metrics["MAE"], seed.metrics["Corr"]))
    optimum = demo_optimum("mosi").loc[list(BOUNDS)]
    rows += [(BOUNDS[seen], best["mae"], best["corr"]) for seen, best in optimum.iterrows()]
    caption = "Generated data in MOSI's layout, 160 test samples, one seed"
    shown = [(name, *(number(value, ".3f") for value in values)) for name, *values in rows]
    print(f"\n{to_text(table_of(('', 'MAE', 'Corr'), shown, caption))}\n")
    print(verdict(*errors, *optimum["mae"], constant=demo_optimum("mosi")["mae"]["none"]))
    print(f"Everything that was written: {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
