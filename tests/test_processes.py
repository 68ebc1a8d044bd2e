"""What is known of a process of this machine."""

import subprocess
import sys

import pytest

CHILD = """
from MMSA_ext.processes import peak_rss_mb
before = peak_rss_mb()
held = bytearray(b"1" * (64 << 20))
print(before, peak_rss_mb() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="its peak is not known there")
def test_peak_memory_is_that_of_the_process_alone():
    """Neither more than it held, nor what the process held that started it."""
    held = bytearray(b"1" * (128 << 20))
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    del held
    before, grown = map(float, told.stdout.split())
    assert before < 64
    assert 60 < grown < 200
