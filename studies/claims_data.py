"""The feature files of results/claims that are made, not found.

    python studies/claims_data.py mosi_text_audio.pkl FOLDER

- `planted_sims.pkl`: generated data in CH-SIMS' layout with a known structure, and `tiny_encoder`,
  a small BERT without training whose vocabulary it is.
- `mosi_noise_vision.pkl`: the given file with one frame of standard normal noise a sample for the
  vision that it lacks. MMIM takes the logarithm of a covariance's determinant of vision, which a
  constant vision does not have.

Equal versions of NumPy make equal files.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from MMSA_ext.data import synthetic
from MMSA_ext.data.features import write_features
from MMSA_ext.data.safe_pickle import safe_load

SIZES, LENGTHS = (400, 100, 400), (20, 24, 20)


def main(
    mosi: Annotated[Path, typer.Argument(help="mosi_text_audio.pkl")],
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    synthetic.write(folder / "planted_sims.pkl", "sims", sizes=SIZES, lengths=LENGTHS)
    synthetic.write_tiny_encoder(folder / "tiny_encoder")
    noise_for_vision(mosi, folder / "mosi_noise_vision.pkl")
    print(synthetic.achievable("sims", lengths=LENGTHS).to_string(float_format="%.3f"))


def noise_for_vision(source: Path, target: Path) -> None:
    """Write a feature file again with noise, drawn with the seed 0, for its vision."""
    splits = safe_load(source)
    draw = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        shape = splits[split]["vision"].shape
        splits[split]["vision"] = draw.standard_normal(shape, dtype=np.float32)
    write_features(target, splits)


if __name__ == "__main__":
    typer.run(main)
