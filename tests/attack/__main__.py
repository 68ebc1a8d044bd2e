"""`python -m tests.attack NAME [TRIES]` runs an attack and prints its tables."""

import importlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
name, *tries = sys.argv[1:]
module = importlib.import_module(f"tests.attack.{name}")
failed = False
with tempfile.TemporaryDirectory() as scratch:
    count = int(tries[0].replace(",", "")) if tries else module.TRIES
    for tally in module.attacks(Path(scratch), count):
        print(tally.render(), flush=True)
        failed |= bool(tally.bad())
sys.exit(failed)
