"""Steps of a model in its real trainer, timed beside their floor."""

import pytest

from MMSA_ext.data import synthetic


@pytest.fixture(scope="module")
def step():
    import step

    return step


@pytest.mark.parametrize(
    ("model", "steps"), [("text_only", 2), pytest.param("misa", 1, marks=pytest.mark.slow)]
)
def test_every_step_that_counts_is_timed(step, tmp_path, model, steps):
    """MISA changes its weights once in two batches, which are then one step."""
    features = synthetic.write(tmp_path / "mosi.pkl", "mosi", sizes=(20, 8, 8), text_features=True)
    encoder = synthetic.write_tiny_encoder(tmp_path / "encoder")
    task = {"model": model, "dataset": "mosi", "features": str(features), "overrides": {}}
    task |= {"pretrained": str(encoder), "batch_size": 4, "device": "cpu", "register": []}
    found = step.measure(task | {"warm_up": 1, "steps": 2, "count": True})
    assert found["passes"] == 1
    assert len(found["steps"]) == steps
    assert all(each["seconds"] > 0 and each["samples"] == 4 for each in found["steps"])
    assert found["cost"]["outputs"]["error"] < 1e-6
    assert step.row("mosi", model, [found], None)["samples_a_step"] == 4
