"""What MMSA's code reads of a configuration, found in its sources.

That everything is found that is read is shown by `test_mmsa_models.py`, which trains every model.
"""

import ast
import textwrap
from typing import Any

import pytest

from MMSA_ext import mmsa_bridge, mmsa_files
from MMSA_ext.config.files import read_config, supported_datasets
from MMSA_ext.config.mmsa_keys import FACTS
from MMSA_ext.mmsa_bridge import keys

# What a run adds before MMSA sees the configuration.
ADDED = {"device", "model_save_path", "cur_seed", "train_mode", "custom_feature"}
ADDED |= {"feature_T", "feature_A", "feature_V"}

CASES = [(m, d) for m in mmsa_files.models() for d in supported_datasets(m)]


def read(model: str, dataset: str = "mosi", **changes: Any) -> mmsa_bridge.KeysRead:
    configuration = read_config("regression", model, dataset)
    return mmsa_bridge.keys_read(model, {**configuration, **changes})


@pytest.mark.parametrize(("model", "dataset"), CASES)
def test_what_is_needed_is_in_mmsas_own_files(model: str, dataset: str) -> None:
    configuration = read_config("regression", model, dataset)
    there = configuration.keys() | {path for path, _ in mmsa_bridge.leaves(configuration)}
    found = mmsa_bridge.keys_read(model, configuration)
    assert found.needed - ADDED <= there
    assert {"batch_size", "early_stop", "KeyEval", *FACTS} - {"seq_lens", "train_samples"} <= set(
        found.names
    )


@pytest.mark.parametrize(
    ("model", "idle"),
    [
        ("lf_dnn", set()),
        ("mfm", {"learning_rate"}),  # Adam's own rate
        ("misa", {"reverse_grad_weight", "sp_weight", "weight_decay"}),
        ("self_mm", {"t_bert_dropout"}),
        ("bert_mag", {"need_normalize", "transformers"}),
        ("mult", {"pretrained", "transformers", "use_bert_finetune", "weight_decay"}),
        # The widths are set by the model itself before it reads them.
        ("tfr_net", {"deal_missing", "use_linear", "fusion_t_in", "fusion_a_in", "fusion_v_in"}),
    ],
)
def test_what_mmsas_files_have_and_nothing_reads(model: str, idle: set[str]) -> None:
    configuration = read_config("regression", model, "mosi")
    found = mmsa_bridge.keys_read(model, configuration)
    shipped = {path for path, _ in mmsa_bridge.leaves(configuration)}
    of_the_data = {"num_classes", "language", "missing_rate", "missing_seed", *FACTS}
    unread = {path for path in shipped if not found.reads(path)} - of_the_data
    assert unread - {"model_name", "dataset_name"} == idle


def test_a_key_may_be_read_with_another_value_of_another() -> None:
    assert not read("mult").reads("pretrained")
    assert read("mult").otherwise["pretrained"] == {"use_bert"}
    assert read("mult", use_bert=True).reads("pretrained")
    assert "use_finetune" in read("mult", use_bert=True).needed
    assert not read("lf_dnn").reads("missing_rate")
    assert read("tfr_net").reads("missing_rate")
    assert "res_save_dir" in read("self_mm", save_labels=True).needed
    assert "res_save_dir" not in read("self_mm").needed


def test_nothing_is_trained_for_classification() -> None:
    for model, dataset in CASES:
        assert "num_classes" not in read(model, dataset).names


def test_keys_of_text_by_which_mmsa_evaluates() -> None:
    assert {"M", "T", "A", "V"} <= set(read("mlf_dnn", "sims").names)
    assert "tasks" not in read("mlf_dnn", "sims").names


def findings(source: str) -> keys._Findings:
    found = keys._Findings()
    keys._Module(found).visit(ast.parse(textwrap.dedent(source)))
    return found


def paths(source: str) -> set[str]:
    return {".".join(one.path) for one in findings(source).reads}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("args.a + args['b'] + args.get('c', args.d)", {"a", "b", "c", "d"}),
        ("args.a['x'] + args['b']['y']", {"a.x", "b.y"}),
        ("list(args.keys()), args.update({}), other.e", set()),
        ("args[name]", set()),
        ("[args.a for _ in range(args.b)]", {"a", "b"}),
        ("lambda: args.a", {"a"}),
        ("args.a[0]", {"a"}),
    ],
)
def test_ways_to_read(body: str, expected: set[str]) -> None:
    assert paths(f"def f(args, other, name):\n    {body}\n") == expected


def test_the_configuration_is_followed_into_attributes_of_a_class() -> None:
    source = """
    class A:
        def __init__(self, config):
            self.kept, self.other = None, config.a
            self.kept = config
        def g(self):
            return self.kept.b + self.elsewhere.c
    class B:
        def g(self):
            return self.kept.d
    class C:
        def __init__(self, config, args):
            self.x = config.of_the_encoder + args.e
    """
    assert paths(source) == {"a", "b", "e"}


def test_conditions_on_values_of_the_configuration() -> None:
    source = """
    class A:
        def __init__(self, args):
            self.flag = args.flag
            x = args.few if args.train_mode == "classification" else args.one
            if not args.flag:
                args.unflagged
            elif args.kind != "b" or other:
                args.perhaps
            if 'there' in args.keys():
                args.there
        def g(self, args):
            if self.flag and args.kind == "b":
                args.both
    """
    found = findings(source)

    def live(**configuration: Any) -> set[str]:
        return {
            ".".join(one.path)
            for one in found.reads
            if not any(keys._holds(condition, configuration) is False for condition in one.when)
        }

    always = {"flag", "train_mode", "one"}
    assert live(flag=False, kind="b") == always | {"unflagged"}
    assert live(flag=True, kind="b", there=1) == always | {"kind", "perhaps", "both", "there"}
    assert live(flag=True, kind="c") == always | {"kind", "perhaps"}


def test_what_the_code_sets_is_not_the_users() -> None:
    found = findings("def f(args):\n    args.a = args.b = 'XY'\n    args['c'][0] = args.a\n")
    assert set(found.assigned) == {("a",), ("b",)}
    assert {one.path for one in found.reads} == {("c",), ("a",)}
