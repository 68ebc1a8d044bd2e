import json
from pathlib import Path

import MMSA
import pytest

from MMSA_ext import mmsa_bridge, mmsa_files
from MMSA_ext.errors import ConfigError

pytestmark = pytest.mark.usefixtures("toy_package")


def test_mmsas_own_models() -> None:
    models = mmsa_files.models()
    assert len(models) == 17
    assert "toy" not in models
    assert mmsa_files.is_model("self_mm")
    assert not mmsa_files.is_model("toy")


def test_supported_datasets() -> None:
    assert mmsa_bridge.supported_datasets("toy") == ["mosi", "sims"]
    assert mmsa_bridge.supported_datasets("mctn") == ["mosi"]
    assert mmsa_bridge.supported_datasets("mlf_dnn") == ["sims"]
    assert set(mmsa_bridge.supported_datasets("lmf", "tune")) == {"mosi", "mosei", "sims"}


def test_every_configuration_is_mmsas() -> None:
    for model in mmsa_files.models():
        for dataset in mmsa_bridge.supported_datasets(model):
            expected = MMSA.get_config_regression(model, dataset)
            assert mmsa_bridge.read_config("regression", model, dataset) == expected
    space = mmsa_bridge.read_config("tune", "toy", "mosi", random_choice=False)
    assert space.width == [1, 2]


def test_unknown_names_get_close_matches() -> None:
    with pytest.raises(ConfigError, match="did you mean self_mm"):
        mmsa_bridge.read_config("regression", "selfmm", "mosi")
    with pytest.raises(
        ConfigError, match=r"'mctn' has no regression .* 'sims', only for mosi; run it"
    ):
        mmsa_bridge.read_config("regression", "mctn", "sims")
    with pytest.raises(ConfigError, match=r"'mtfn' has no regression .* only for sims; its unimod"):
        mmsa_bridge.read_config("regression", "mtfn", "mosi")
    with pytest.raises(ConfigError, match="'mctn' has no tune configuration"):
        mmsa_bridge.read_config("tune", "mctn", "mosi")


def test_unusable_files(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(ConfigError, match=r"c\.json: no such configuration file"):
        mmsa_bridge.read_config("regression", "toy", "mosi", path)
    path.write_text('{"a": 1,}')
    with pytest.raises(ConfigError, match="not valid JSON at line 1, column"):
        mmsa_bridge.read_config("regression", "toy", "mosi", path)
    path.write_text(json.dumps({"toy": {"datasetParams": {"mosi": {}}}}))
    with pytest.raises(ConfigError, match="lacks the key 'commonParams'"):
        mmsa_bridge.read_config("regression", "toy", "mosi", path)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="holds no JSON object"):
        mmsa_bridge.read_config("regression", "toy", "mosi", path)
    path.write_text('{"toy": [1]}')
    with pytest.raises(ConfigError, match="is not a configuration in MMSA's schema: toy is"):
        mmsa_bridge.read_config("regression", "toy", "mosi", path)
