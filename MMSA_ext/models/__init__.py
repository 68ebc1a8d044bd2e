"""Models of this package; importing it registers them."""

from MMSA_ext.models import (
    almt,
    confede,
    dashfusion,
    dbf,
    fdmer_reconstructed,
    infoenh_hosts,
    text_only,
)

__all__ = [
    "almt",
    "confede",
    "dashfusion",
    "dbf",
    "fdmer_reconstructed",
    "infoenh_hosts",
    "text_only",
]
