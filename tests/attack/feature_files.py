"""Damaged feature files: random changes of sound ones, read and checked.

Each try changes, inserts, removes or moves one to eight bytes of one of six sound files, or cuts
it off. The changed file is read by `safe_load` and, hashed, by `check_features`; one that is still
usable is read by `read_features` and made into batches. It must end as content, or in the one error
that is for unusable files, within two seconds of processor time and with 300 MiB more memory.
"""

import base64
import pickle
import pickletools
import random
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from MMSA_ext.data.features import check_features, read_features, safe_load
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.errors import FeatureFileError
from tests.attack.guarded import guarded
from tests.attack.tally import Tally
from tests.conftest import make_feature_data
from tests.data.pickles.written import WRITTEN

TRIES = 200_000
USABLE, PROBLEMS, REFUSED = "content, usable", "content, with problems", "refused"
MEMORY = "more than 300 MiB"


def sound_files() -> dict[str, bytes]:
    """Sound files by name: all protocols, the old and the new names of numpy, Python 2."""
    small = make_feature_data((2, 1, 1))
    objects = {
        name: split
        | {
            "id": np.array(split["id"], object),
            "raw_text": split["raw_text"].astype(object),
            "audio": [np.asfortranarray(sample) for sample in split["audio"]],
            "vision": split["vision"].tolist(),
            "text": split["text"].astype(">f2"),
        }
        for name, split in small.items()
    }
    complete = make_feature_data((26, 8, 6))
    return {
        "protocol 0": pickle.dumps(small, 0).replace(b"numpy._core.", b"numpy.core."),
        "protocol 2": pickle.dumps(small, 2).replace(b"numpy._core.", b"numpy.core."),
        "protocol 4, complete": pickle.dumps(complete, 4),
        "protocol 5": pickle.dumps(small, 5),
        "objects and lists": pickle.dumps(objects, 4),
        "python 2": zlib.decompress(base64.b64decode(WRITTEN["python2.7-numpy1.16-protocol2"])),
    }


class Mutants:
    """Changed files by number; the same number is the same file."""

    def __init__(self) -> None:
        self._sound = sound_files()
        self._starts = {
            name: [at for _, _, at in pickletools.genops(stored) if at is not None]
            for name, stored in self._sound.items()
        }

    def name(self, number: int) -> str:
        """Which file is changed, and by which number."""
        return f"{number} ({self._choice(number)[1]})"

    def stored(self, number: int) -> bytes:
        """The changed file."""
        dice, name = self._choice(number)
        stored = bytearray(self._sound[name])
        if dice.random() < 0.1:
            return bytes(stored[: dice.randrange(len(stored))])
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            self._change(dice, name, stored)
        return bytes(stored)

    def _choice(self, number: int) -> tuple[random.Random, str]:
        dice = random.Random(number)
        return dice, dice.choice(list(self._sound))

    def _change(self, dice: random.Random, name: str, stored: bytearray) -> None:
        # Half of the changes hit what is no number of an array.
        near = dice.choice(self._starts[name]) + dice.randrange(4)
        at = min(dice.choice((near, dice.randrange(len(stored)))), len(stored) - 1)
        count = dice.choice((1, 1, 1, 2, 3, 4, 8))
        how = dice.randrange(6)
        if how == 0:
            stored[at] ^= 1 << dice.randrange(8)
        elif how == 1:
            stored[at : at + count] = dice.randbytes(count)
        elif how == 2:
            codes = [code.code.encode("latin-1") for code in pickletools.opcodes]
            stored[at : at + dice.randrange(2)] = dice.choice(codes)
        elif how == 3:
            stored[at:at] = dice.randbytes(count)
        elif how == 4:
            del stored[at : at + count]
        else:
            other = self._sound[dice.choice(list(self._sound))]
            start = dice.randrange(len(other))
            stored[at : at + dice.choice((0, count))] = other[start : start + dice.randrange(64)]


def try_file(path: Path) -> str:
    """Read and check a file in every way; how it ended."""
    try:
        safe_load(path)
        report = check_features(path, "mosi", require_labels=False)
        report.render()
        if not report.ok:
            return PROBLEMS
        features = read_features(path, "mosi", require_labels=False, cache=False)
        for loader in make_loaders(features, 4, 4).values():
            for _ in loader:
                pass
    except FeatureFileError as error:
        return MEMORY if "more memory than there is" in str(error) else REFUSED
    return USABLE


def attacks(folder: Path, tries: int) -> Iterator[Tally]:
    """Make so many tries."""
    mutants, path = Mutants(), folder / "features.pkl"

    def attempt(number: int) -> str:
        path.write_bytes(mutants.stored(number))
        return try_file(path)

    def warm_up() -> None:
        warnings.simplefilter("ignore")
        for stored in sound_files().values():
            path.write_bytes(stored)
            try_file(path)

    tally = Tally("damaged feature files", (USABLE, PROBLEMS, REFUSED))
    yield guarded(tally, tries, attempt, mutants.name, warm_up=warm_up)
