"""`mmsa-ext explain`, as typed."""

import pickle

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from MMSA_ext.cli.explain import app, parse_row
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError
from tests.conftest import make_feature_data, tiny_config, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_encoder):
    """A tiny DashFusion and text-only model, with their store."""
    folder = tmp_path_factory.mktemp("explained")
    features = folder / "features.pkl"
    features.write_bytes(pickle.dumps(make_feature_data(), protocol=4))
    checkpoints = {
        model: train(model, features, folder, config=tiny_config(model, tiny_encoder)).checkpoint
        for model in ("dashfusion", "text_only")
    }
    return folder, features, checkpoints


def explain(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(path):
    return pd.read_csv(path, encoding="utf-8-sig")


def test_attention(trained, tmp_path):
    _, features, checkpoints = trained
    result = explain(
        "attention", checkpoints["dashfusion"], features, "-o", tmp_path, "-g", "cpu",
        "--sample", "valid$_$1",
    )  # fmt: skip
    assert result.exit_code == 0
    assert set(read(tmp_path / "attention.csv")["id"]) == {"valid$_$1"}
    stems = {path.stem for path in tmp_path.glob("*.png")}
    assert stems == {"attention-01-valid_1", "attention-01-valid_1-heads"}


def test_attribution(trained, tmp_path):
    _, features, checkpoints = trained
    result = explain(
        "attribution", checkpoints["dashfusion"], features, "-o", tmp_path, "-g", "cpu",
        "--sample", "test$_$1", "--steps", 8,
    )  # fmt: skip
    assert "test$_$1" in result.output
    samples = read(tmp_path / "attribution_samples.csv")
    parts = read(tmp_path / "attribution.csv")
    total = samples["baseline"][0] + parts["attribution"].sum() + samples["gap"][0]
    np.testing.assert_allclose(total, samples["prediction"][0], atol=1e-6)
    assert (tmp_path / "attribution-01-test_1.pdf").is_file()


def test_embeddings(trained, tmp_path):
    _, features, checkpoints = trained
    explain("embeddings", checkpoints["dashfusion"], features, "-o", tmp_path, "-g", "cpu")
    assert len(read(tmp_path / "embeddings.csv")) == 4 * 6
    assert len(read(tmp_path / "distances.csv")) == 6
    assert (tmp_path / "embeddings.png").is_file()


def test_cases(trained, tmp_path):
    folder, features, _ = trained
    result = explain(
        "cases", features, "--res-save-dir", folder, "-o", tmp_path, "--count", 3,
        "--row", "Text=text_only", "--row", "Full=dashfusion:heads=4",
    )  # fmt: skip
    assert "Full is nearer to the label than Text on" in result.output
    assert len(read(tmp_path / "cases.csv")) == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "cases.csv", "cases.md", "cases.png", "cases.pdf",
    }  # fmt: skip


def test_wrong_inputs_are_one_sentence(trained, tmp_path):
    _, features, checkpoints = trained
    with pytest.raises(CheckpointError, match="text_only has no temporal alignment"):
        explain("attention", checkpoints["text_only"], features, "-o", tmp_path)
    with pytest.raises(FeatureFileError, match=r"no sample 'test\$_\$11'; did you mean test"):
        explain("attention", checkpoints["dashfusion"], features, "--sample", "test$_$11")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        explain("embeddings", tmp_path / "none.pth", features)
    with pytest.raises(ConfigError, match="same label"):
        explain("cases", features, "--row", "A=x", "--row", "A=y")
    with pytest.raises(ConfigError, match="no such folder, so there are no runs"):
        explain("cases", features, "--row", "A=x", "--row", "B=y", "--res-save-dir", tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows():
    assert parse_row("A + B=m:infoenh.k=8,plan=uniform") == (
        "A + B", ("m", {"infoenh.k": 8, "plan": "uniform"})
    )  # fmt: skip
    assert parse_row("A=m:plan=uniform,k=[1") == ("A", ("m", {"plan": "uniform", "k": "[1"}))
    for wrong in ("model", "=model", "A=", "A=m:k"):
        with pytest.raises(ConfigError, match=r"--row .*write"):
            parse_row(wrong)
