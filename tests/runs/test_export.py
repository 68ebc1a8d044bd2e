"""Exported models: what they take, that they predict what the model predicts, what is refused."""

import json

import numpy as np
import pytest
import torch

from MMSA_ext.errors import ConfigError
from MMSA_ext.registry import list_models, trains_in_mmsa
from MMSA_ext.runs import export
from MMSA_ext.runs.export import FACTS, export_model
from MMSA_ext.runs.prediction import Scorer
from MMSA_ext.training.checkpoint import save_checkpoint
from tests.models.untrained import untrained_checkpoint

OWN = [name for name in list_models() if not trains_in_mmsa(name)]


@pytest.fixture
def trained(tmp_path, tiny_encoder):
    def make(name):
        checkpoint, features = untrained_checkpoint(name, tmp_path, tiny_encoder)
        save_checkpoint(tmp_path / "model.pth", checkpoint)
        return tmp_path / "model.pth", features

    return make


def given(features, checkpoint):
    """The test split as its file has it, in the names of an exported model; and its predictions."""
    scorer = Scorer(checkpoint, gpu_ids="cpu")
    read = scorer.read(features)
    split = read.with_scaling(None).splits["test"]
    values = {
        "text": torch.from_numpy(split.text_bert.astype(np.int64)),
        "audio": torch.from_numpy(split.audio),
        "audio_lengths": torch.from_numpy(split.audio_lengths),
        "vision": torch.from_numpy(split.vision),
        "vision_lengths": torch.from_numpy(split.vision_lengths),
    }
    table = scorer.predict(read)
    return values, table.loc[table["split"] == "test", "prediction"].to_numpy(np.float32)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "text_only" else pytest.mark.slow) for n in OWN],
)
def test_every_model_is_exported_and_predicts_what_a_scorer_does(trained, tmp_path, name):
    checkpoint, features = trained(name)
    made = export_model(checkpoint, tmp_path / "model.pt2")
    assert made.difference < 1e-5
    facts = {FACTS: ""}
    model = torch.export.load(made.path, extra_files=facts).module()
    assert json.loads(facts[FACTS])["inputs"] == made.inputs
    assert json.loads(facts[FACTS])["model"] == name
    values, wanted = given(features, checkpoint)
    found = model(**{key: values[key] for key in made.inputs}).numpy()
    if not name.endswith("_released"):  # these read the padding of their batch
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["text_only", pytest.param("dashfusion", marks=pytest.mark.slow)])
def test_onnx_predicts_what_a_scorer_does(trained, tmp_path, name):
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    checkpoint, features = trained(name)
    made = export_model(checkpoint, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(made.path))
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    assert facts["inputs"] == made.inputs
    assert {node.name for node in session.get_inputs()} == {*made.inputs}
    assert [node.name for node in session.get_outputs()] == ["prediction"]
    values, wanted = given(features, checkpoint)
    (found,) = session.run(None, {key: values[key].numpy() for key in made.inputs})
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    (first,) = session.run(None, {key: values[key][:1].numpy() for key in made.inputs})
    np.testing.assert_allclose(first, wanted[:1], atol=1e-5)


def test_what_cannot_be_exported_is_a_sentence_and_no_file(trained, tmp_path, monkeypatch):
    checkpoint, _ = trained("lf_dnn")
    with pytest.raises(ConfigError, match=r"lf_dnn is MMSA's model, .* cannot be exported"):
        export_model(checkpoint, tmp_path / "model.pt2")
    checkpoint, _ = trained("text_only")
    with pytest.raises(ConfigError, match=r"ends with \.pt2 or \.onnx"):
        export_model(checkpoint, tmp_path / "model.pth2")
    monkeypatch.setattr(export, "_largest_difference", lambda *given: 0.5)
    with pytest.raises(ConfigError, match=r"5\.0e-01 otherwise"):
        export_model(checkpoint, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_the_command_says_what_the_model_takes(trained, tmp_path, typed):
    checkpoint, _ = trained("text_only")
    code, said = typed(f"mmsa-ext export {checkpoint} -o {tmp_path / 'model.pt2'}")
    assert code == 0
    assert "input: text int64 (batch, 3, text_steps); text_steps 1 to 10" in said
