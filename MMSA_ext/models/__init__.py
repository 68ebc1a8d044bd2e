"""Models of this package; importing one of their modules registers what it holds."""

from importlib import import_module

# Each model and its module: names are known, and listed in MMSA, before any module is imported.
HOMES = {
    "almt": "almt",
    "almt_released": "almt",
    "cenet": "cenet",
    "cenet_released": "cenet",
    "confede": "confede",
    "confede_infoenh": "confede",
    "dashfusion": "dashfusion",
    "dashfusion_released": "dashfusion",
    "dbf": "dbf",
    "ef_lstm_infoenh": "hosts.feature_level",
    "fdmer_reconstructed": "fdmer_reconstructed",
    "lf_dnn_infoenh": "hosts.feature_level",
    "lmf_infoenh": "hosts.feature_level",
    "mfn_infoenh": "hosts.feature_level",
    "misa_infoenh": "hosts.misa",
    "mmim_infoenh": "hosts.mmim",
    "mult_infoenh": "hosts.feature_level",
    "self_mm_infoenh": "hosts.self_mm",
    "tetfn": "tetfn",
    "tetfn_released": "tetfn",
    "text_only": "text_only",
    "tfn_infoenh": "hosts.feature_level",
}


def import_home(name: str) -> None:
    """Import the module of model `name`, which registers it; once imported, do nothing.

    Raises:
        KeyError: If this package has no such model.
    """
    import_module(f"{__name__}.{HOMES[name]}")


def import_all() -> None:
    """Import the modules of all models."""
    for name in HOMES:
        import_home(name)
