"""What a stopped training leaves and takes; bit for bit, as is tested with the models."""

import logging

import pytest
import torch

from MMSA_ext.training.state import ResumePoint
from MMSA_ext.training.trainer import Trainer


def train(setting, resume, **more):
    args, model, loaders = setting(num_epochs=3, **more)
    trainer = Trainer(args)
    trainer.resume = resume
    trainer.do_train(model, loaders)
    return trainer, model


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """However slow the disk is."""
    monkeypatch.setattr("MMSA_ext.training.state._MOST_OF_THE_TIME", float("inf"))


@pytest.fixture
def resume(tmp_path):
    return ResumePoint(tmp_path / "run.resume", "this run here")


def test_a_finished_training_is_only_tested_again(setting, resume):
    first, model = train(setting, resume)
    again, other = train(setting, ResumePoint(resume.path, resume.run))
    assert again.history == first.history
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    assert again.args.model_save_path.is_file()
    resume.remove()
    resume.remove()
    assert not resume.path.exists()


def test_patience_that_is_out_stays_out(setting, resume):
    first, _ = train(setting, resume, early_stop=0)
    again, _ = train(setting, ResumePoint(resume.path, resume.run), early_stop=0)
    assert len(first.history.epochs) == 2
    assert again.history == first.history


@pytest.mark.parametrize("what", ["another run", "damaged", "empty"])
def test_a_state_that_does_not_fit_starts_over(setting, resume, what, caplog):
    first, _ = train(setting, resume)
    if what == "damaged":
        content = bytearray(resume.path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        resume.path.write_bytes(content)
    elif what == "empty":
        resume.path.write_bytes(b"")
    run = "elsewhere" if what == "another run" else resume.run
    with caplog.at_level(logging.INFO, "MMSA"):
        again, _ = train(setting, ResumePoint(resume.path, run))
    assert "starts over" in caplog.text
    assert [e["valid"] for e in again.history.epochs] == [e["valid"] for e in first.history.epochs]


def test_a_full_disk_costs_the_state_alone(setting, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    trainer, _ = train(setting, ResumePoint(blocked / "run.resume", "a"))
    assert len(trainer.history.epochs) == 4
    assert "starts over" in caplog.text


def test_writing_takes_no_more_than_its_share(setting, resume, monkeypatch):
    """Epochs of a second, and a disk that needs a quarter of one: not every epoch is kept."""
    monkeypatch.setattr("MMSA_ext.training.state._MOST_OF_THE_TIME", 0.2)
    now, written = [0.0], []

    def write(path, content):
        written.append(content["epoch"])
        now[0] += 0.25

    monkeypatch.setattr("MMSA_ext.training.state.write_sealed", write)
    monkeypatch.setattr("MMSA_ext.training.state.time.perf_counter", lambda: now[0])
    args, model, loaders = setting(num_epochs=6)
    trainer = Trainer(args)
    trainer.resume = resume
    begin = type(model.Model).begin_epoch

    def second(self, epoch, epochs):
        now[0] += 1.0
        begin(self, epoch, epochs)

    monkeypatch.setattr(type(model.Model), "begin_epoch", second)
    trainer.do_train(model, loaders)
    assert written == [1, 3, 5]
