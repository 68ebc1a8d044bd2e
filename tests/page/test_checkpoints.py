"""Models by name."""

import shutil

import pytest

from MMSA_ext.page.checkpoints import Checkpoints, UnknownCheckpointError


def test_names_are_those_of_the_files_and_each_is_another(models, tmp_path):
    other = tmp_path / "text_only.pth"
    shutil.copy(models / "text_only.pth", other)
    (tmp_path / "notes.txt").write_text("no model")
    places = Checkpoints([other, models / "dashfusion.pth", other], models).places()
    assert places == {
        "text_only": other,
        "dashfusion": models / "dashfusion.pth",
        "text_only (2)": models / "text_only.pth",
    }


def test_a_model_that_is_trained_meanwhile_is_offered(models, tmp_path):
    offered = Checkpoints([], tmp_path / "saved")
    assert offered.places() == {}
    with pytest.raises(UnknownCheckpointError, match="no model is offered; train one"):
        offered.open()
    shutil.copytree(models, tmp_path / "saved")
    assert list(offered.places()) == ["dashfusion", "text_only"]


def test_the_first_is_the_default_and_one_is_in_memory(models):
    offered = Checkpoints([models / "text_only.pth"], models)
    name, scorer = offered.open()
    assert (name, scorer.args.model_name) == ("text_only", "text_only")
    assert offered.open("text_only")[1] is scorer
    assert offered.open("dashfusion")[1].args.model_name == "dashfusion"
    assert offered.open("text_only")[1] is not scorer


def test_one_that_changes_is_loaded_again(models, tmp_path):
    path = tmp_path / "model.pth"
    shutil.copy(models / "text_only.pth", path)
    offered = Checkpoints([path])
    assert offered.open()[1].args.model_name == "text_only"
    shutil.copy(models / "dashfusion.pth", path)
    assert offered.open()[1].args.model_name == "dashfusion"
