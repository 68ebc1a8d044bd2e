"""InfoEnh inside models of MMSA: `X_infoenh` for each host X; importing its module registers it.

`common` holds what they share, `misa`, `self_mm` and `mmim` one host each, `feature_level` the
models that read feature sequences, `vectors` the way into a host's forward.
"""
