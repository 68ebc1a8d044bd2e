"""Labels reach a host during training only, and InfoEnh's loss joins through the prediction."""

import inspect

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from MMSA_ext.models.hosts import common
from MMSA_ext.models.infoenh import InfoEnh


class Samples(Dataset):
    labels = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.0, 0.5])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"labels": {"M": self.labels[index, None]}}


class Host(common.EnhancedHost):
    def __init__(self):
        super().__init__()
        self.infoenh = InfoEnh({"text": 4, "audio": 3}, k=2, d=4)
        self.head = nn.Linear(4, 1)

    def forward(self, text, audio):
        masks = {"text": torch.ones(text.shape[:2]).bool(), "audio": audio.abs().sum(-1) > 0}
        enhanced = self.enhance({"text": text, "audio": audio}, masks)
        return self.attach({"M": self.head(enhanced.filtered["text"].mean(1))}, enhanced)


@pytest.fixture
def host():
    torch.manual_seed(0)
    return Host()


@pytest.fixture
def sequences():
    torch.manual_seed(1)
    return torch.randn(6, 5, 4), torch.randn(6, 7, 3)


def test_labels_are_there_for_each_batch_and_gone_afterwards(host):
    loaders = {"train": DataLoader(Samples(), batch_size=4), "valid": DataLoader(Samples())}
    wrapped = common.publish_labels(nn.ModuleDict({"Model": host}), loaders)
    assert wrapped["valid"] is loaders["valid"]
    assert len(wrapped["train"]) == 2
    assert wrapped["train"].batch_size == 4
    seen = []
    for batch in wrapped["train"]:
        seen.append(host.labels)
        assert torch.equal(host.labels, batch["labels"]["M"].reshape(-1))
    assert [len(labels) for labels in seen] == [4, 2]
    assert host.labels is None


def test_labels_are_gone_when_an_epoch_is_left_early(host):
    wrapped = common.publish_labels(host, {"train": DataLoader(Samples(), batch_size=4)})
    for _ in wrapped["train"]:
        break
    assert host.labels is None


def test_the_order_of_batches_is_the_loaders(host):
    loader = DataLoader(Samples(), batch_size=2, shuffle=True)
    torch.manual_seed(3)
    plain = [batch["labels"]["M"] for batch in loader]
    torch.manual_seed(3)
    wrapped = common.publish_labels(host, {"train": loader})
    for expected, batch in zip(plain, wrapped["train"], strict=True):
        assert torch.equal(expected, batch["labels"]["M"])


def test_other_models_keep_their_loaders():
    loaders = {"train": DataLoader(Samples())}
    assert common.publish_labels(nn.Linear(1, 1), loaders) is loaders


class Trainer:
    """As MMSA's: it keeps things on itself, and its evaluation is replaced from outside."""

    def __init__(self, args):
        self.args = args

    def do_train(self, model, dataloader, return_epoch_results=False):
        self.seen = [model.labels for _ in dataloader["train"]]
        return self.do_test(model, dataloader["valid"]), return_epoch_results

    def do_test(self, model, dataloader):
        return [model.labels for _ in dataloader]


class TestLabelledTrainer:
    @pytest.fixture
    def loaders(self):
        return {"train": DataLoader(Samples(), batch_size=4), "valid": [None]}

    def test_it_publishes_labels_while_it_trains(self, host, loaders):
        trainer = common.labelled(Trainer)("args")
        assert trainer.do_train(host, loaders, return_epoch_results=True) == ([None], True)
        assert torch.equal(torch.cat(trainer.seen), Samples.labels)
        assert trainer.args == "args"
        assert host.labels is None

    def test_its_evaluation_can_be_replaced(self, host, loaders):
        trainer = common.labelled(Trainer)("args")
        trainer.do_test = lambda model, dataloader: "replaced"
        assert trainer.do_train(host, loaders) == ("replaced", False)

    def test_other_models_train_as_they_did(self, loaders):
        model = nn.Linear(1, 1)
        model.labels = "its own"
        trainer = common.labelled(Trainer)("args")
        trainer.do_train(model, loaders)
        assert trainer.seen == ["its own"] * 2

    def test_it_counts_as_the_trainers_own_source(self):
        """Name and file: the second is part of a run's identity."""
        labelled = common.labelled(Trainer)
        assert labelled.__name__ == "Trainer"
        assert inspect.getsourcefile(labelled) == inspect.getsourcefile(Trainer)


@pytest.mark.parametrize("case", ["no labels", "evaluation", "no_grad"])
def test_nothing_is_attached_outside_of_training(host, sequences, case):
    host.labels = None if case == "no labels" else Samples.labels
    host.train(case != "evaluation")
    with torch.set_grad_enabled(case != "no_grad"):
        prediction = host(*sequences)["M"]
    assert host.take_diagnostics() == {}
    if case != "no_grad":
        prediction.sum().backward()
        gate = dict(host.infoenh.named_parameters())
        assert all(p.grad is None or not p.grad.any() for n, p in gate.items() if "audio" in n)


def test_diagnostics_are_means_over_the_batches_since_the_last_call(host, sequences):
    host.labels = Samples.labels
    host(*sequences)
    first = host.take_diagnostics()
    assert {"kept_ratio_text", "transport_cost", "plan_entropy", "infoenh_loss"} <= set(first)
    other = [-sequence for sequence in sequences]
    host(*other)
    second = host.take_diagnostics()
    host(*sequences)
    host(*other)
    both = host.take_diagnostics()
    assert both == pytest.approx({key: (first[key] + second[key]) / 2 for key in first})
    assert both != pytest.approx(first)
    assert host.take_diagnostics() == {}
