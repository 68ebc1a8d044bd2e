"""InfoEnh inside models of MMSA: `X_infoenh` for each host X; importing it registers them.

`common` holds what they share, `misa`, `self_mm` and `mmim` one host each, `feature_level` the
models that read feature sequences, `vectors` the way into a host's forward.
"""

from MMSA_ext.models.infoenh_hosts import feature_level, misa, mmim, self_mm

__all__ = ["feature_level", "misa", "mmim", "self_mm"]
