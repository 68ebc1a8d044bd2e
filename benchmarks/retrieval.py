"""Cost of one refresh of the retrieval index: seconds and memory, by number of samples.

    python benchmarks/retrieval.py --samples 16326 --dim 384

Prints CSV; the memory is the peak of the process less what it held before the refresh.
"""

import argparse
import resource
import sys
import time

import torch

from MMSA_ext.data.retrieval import RetrievalConfig, build_index


def peak_mb() -> float:
    """Peak memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Time one refresh for each number of samples, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[16326])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=7)
    options = parser.parse_args()
    print("samples,dim,classes,seconds,extra_peak_mb,threads")
    for count in sorted(options.samples):
        torch.manual_seed(0)
        features = torch.randn(count, options.dim)
        labels = torch.randint(0, options.classes, (count,)).float()
        before, began = peak_mb(), time.perf_counter()
        build_index(features, labels, RetrievalConfig())
        seconds, extra = time.perf_counter() - began, peak_mb() - before
        print(
            f"{count},{options.dim},{options.classes},{seconds:.2f},{extra:.0f},"
            f"{torch.get_num_threads()}"
        )


if __name__ == "__main__":
    main()
