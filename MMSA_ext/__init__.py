"""MMSA_ext: DashFusion and InfoEnh in the MMSA toolkit, under its protocol.

Data flows one way::

    feature file --data.features--> checked arrays --data.loader--> batches --models--> outputs
    outputs --training--> checkpoint, predictions --MMSA's metrics--> record
    records --reporting--> tables, figures, statistics

Importing this package registers its models in MMSA: both `from MMSA_ext import MMSA_run` and
`from MMSA import MMSA_run` accept them. `unregister()` restores MMSA exactly.
"""

from MMSA_ext import mmsa_bridge, models
from MMSA_ext.config import extension_config, get_config_regression, get_config_tune
from MMSA_ext.errors import MMSAExtError
from MMSA_ext.mmsa_bridge import register, unregister
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhConfig
from MMSA_ext.prediction import MMSA_test, predict_file
from MMSA_ext.registry import get_model, list_models, register_model, unregister_model
from MMSA_ext.results import MetricSummary, RunResults, SeedResult
from MMSA_ext.runner import MMSA_run
from MMSA_ext.version import __version__

mmsa_bridge.introduce(
    mmsa_bridge.Extension(list_models, get_model, extension_config, MMSA_run, MMSA_test)
)
register()

__all__ = [
    "InfoEnh",
    "InfoEnhConfig",
    "MMSAExtError",
    "MMSA_run",
    "MMSA_test",
    "MetricSummary",
    "RunResults",
    "SeedResult",
    "__version__",
    "get_config_regression",
    "get_config_tune",
    "list_models",
    "models",
    "predict_file",
    "register",
    "register_model",
    "unregister",
    "unregister_model",
]
