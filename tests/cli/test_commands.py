"""The command line, as a user types it."""

import io
import json
import os
import pickle
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from MMSA_ext.cli import app, main
from MMSA_ext.cli.options import parse_overrides
from MMSA_ext.errors import ConfigError
from tests.conftest import tiny_config

runner = CliRunner()


def options(tmp_path):
    return [
        "--model-save-dir", str(tmp_path / "m"), "--res-save-dir", str(tmp_path / "r"),
        "--log-dir", str(tmp_path / "l"), "-g", "cpu", "-n", "0",
    ]  # fmt: skip


def settings(model, encoder):
    return [f"--set={key}={value}" for key, value in tiny_config(model, encoder).items()]


def test_run_predict_and_where_everything_is(tmp_path, feature_file, tiny_encoder, pictures):
    arguments = ["run", "-m", "dashfusion", "-d", "mosi", "-f", str(feature_file), "-s", "1"]
    result = runner.invoke(
        app, [*arguments, *settings("dashfusion", tiny_encoder), *options(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    for part in ("MAE", "record:", "checkpoint:", "picture:", "selection"):
        assert part in result.output
    checkpoint = next((tmp_path / "m").glob("*.pth"))
    output = tmp_path / "p" / "predictions.csv"
    predicted = runner.invoke(
        app, ["predict", str(checkpoint), str(feature_file), "-o", str(output), "-g", "cpu"]
    )
    assert predicted.exit_code == 0, predicted.output
    assert len(output.read_text().splitlines()) == 25
    printed = runner.invoke(app, ["predict", str(checkpoint), str(feature_file)])
    assert printed.output == output.read_text()


def test_a_file_of_text_alone(tmp_path, feature_data, tiny_encoder):
    """Every command on what has neither audio nor vision; a model that reads them is refused."""
    keys = ("id", "raw_text", "text_bert", "regression_labels")
    texts = {name: {key: split[key] for key in keys} for name, split in feature_data.items()}
    file = tmp_path / "texts.pkl"
    file.write_bytes(pickle.dumps(texts))

    def call(*arguments):
        result = runner.invoke(app, [*map(str, arguments)])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    assert "audio: absent" in call("check-data", file, "-d", "mosi")
    run = ["run", "-d", "mosi", "-f", file, "-s", "1", *options(tmp_path)]
    call(*run, "-m", "text_only", *settings("text_only", tiny_encoder))
    (checkpoint,) = (tmp_path / "m").glob("*.pth")
    assert call("predict", checkpoint, file, "-g", "cpu").count("\n") == 25
    out = ["-o", tmp_path / "out", "-g", "cpu"]
    assert "attribution-01" in call("explain", "attribution", checkpoint, file, *out)
    results = ["--res-save-dir", tmp_path / "r"]
    assert "equal" in call("verify", *results)
    assert "report" in call("report", *results)
    encoded = tmp_path / "encoded.pkl"
    call("encode-text", file, encoded, "-p", tiny_encoder, "--max-length", "12", "-g", "cpu")
    assert "audio: absent" in call("check-data", encoded)
    refused = runner.invoke(app, [*map(str, run), "-m", "lf_dnn"]).exception
    assert str(refused).startswith(f"{file}: has no audio and no vision, which lf_dnn reads")


def test_run_on_generated_data(tmp_path, tiny_encoder):
    """SIMS, whose embedded data needs no tokenizer from elsewhere."""
    from MMSA_ext.data.synthetic import write_tiny_encoder

    encoder = write_tiny_encoder(tmp_path / "encoder", hidden=16, layers=1)
    arguments = ["run", "-m", "text_only", "-d", "sims", "--synthetic", "-s", "1", "-v", "1"]
    result = runner.invoke(app, [*arguments, *settings("text_only", encoder), *options(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "text_only" in result.output
    assert list((tmp_path / "r" / "synthetic").glob("sims-*.pkl"))


@pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
def test_a_smoke_test_shows_a_table_and_leaves_nothing(model, tmp_path, monkeypatch):
    """Neither at home nor in the folder for temporary files."""
    from MMSA_ext.data.synthetic import write_tiny_encoder

    encoder = write_tiny_encoder(tmp_path / "encoder", hidden=16, layers=1)
    for variable in ("HOME", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr("tempfile.tempdir", None)
    own = settings("text_only", encoder) if model == "text_only" else []
    arguments = ["run", "-m", model, "-d", "sims", "--synthetic", "--smoke", "-g", "cpu", "-n", "0"]
    result = runner.invoke(app, [*arguments, *own])
    assert result.exit_code == 0, result.output
    for part in (model, "MAE", "n = 1: 1111", "nothing was kept"):
        assert part in result.output
    left = [path for name in ("HOME", "TMPDIR") for path in (tmp_path / name).rglob("*.*")]
    assert [path for path in left if "MMSA" in str(path) or "smoke" in str(path)] == []


def test_check_data(feature_file, tmp_path, feature_data):
    result = runner.invoke(app, ["check-data", str(feature_file), "-d", "mosi"])
    assert result.exit_code == 0
    assert "train" in result.output
    feature_data["train"]["regression_labels"][3] = float("nan")
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(pickle.dumps(feature_data))
    result = runner.invoke(app, ["check-data", str(bad)])
    assert result.exit_code == 1
    assert "regression_labels" in result.output
    misspelt = runner.invoke(app, ["check-data", str(feature_file), "-d", "mosii"])
    assert "did you mean mosi" in str(misspelt.exception)


def test_check_data_of_three_files(tmp_path, feature_data):
    files = []
    keys = {"T": ("text_bert", "raw_text", "regression_labels"), "A": ("audio", "audio_lengths"),
            "V": ("vision", "vision_lengths")}  # fmt: skip
    for role, own in keys.items():
        path = tmp_path / f"{role}.pkl"
        splits = {n: {k: s[k] for k in ("id", *own)} for n, s in feature_data.items()}
        path.write_bytes(pickle.dumps(splits))
        files += [f"-F{role.lower()}", str(path)]
    result = runner.invoke(app, ["check-data", "-d", "mosi", *files])
    assert result.exit_code == 0, result.output
    assert "usable: 0 problems" in result.output
    result = runner.invoke(app, ["check-data", *files[:4]])
    assert "all of feature_T, feature_A and feature_V" in str(result.exception)


def test_front_padding(tmp_path, feature_data, tiny_encoder):
    for split in feature_data.values():
        split["audio"] = split["audio"][:, ::-1]
        del split["audio_lengths"]
    path = tmp_path / "front.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    result = runner.invoke(app, ["check-data", str(path)])
    assert result.exit_code == 1
    assert "--front-padding turn" in result.output
    result = runner.invoke(app, ["check-data", str(path), "--front-padding", "turn"])
    assert result.exit_code == 0, result.output
    arguments = ["run", "-m", "text_only", "-d", "mosi", "-f", str(path), "-s", "1"]
    arguments += [*settings("text_only", tiny_encoder), *options(tmp_path)]
    result = runner.invoke(app, [*arguments, "--front-padding", "turn"])
    assert result.exit_code == 0, result.output
    checkpoint = str(next((tmp_path / "m").glob("*.pth")))
    turned = runner.invoke(app, ["predict", checkpoint, str(path)])
    assert turned.exit_code == 0, turned.output
    kept = runner.invoke(app, ["predict", checkpoint, str(path), "--front-padding", "keep"])
    assert kept.exit_code == 0, kept.output
    scaled = tmp_path / "scaled.pkl"
    arguments = ["standardise", str(path), str(scaled), "--front-padding", "turn"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert runner.invoke(app, ["check-data", str(scaled)]).exit_code == 0


def test_encode_text(feature_file, tmp_path, tiny_encoder):
    output = tmp_path / "encoded.pkl"
    result = runner.invoke(
        app, ["encode-text", str(feature_file), str(output), "-p", str(tiny_encoder),
              "--max-length", "10", "-g", "cpu"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    encoded = pickle.loads(output.read_bytes())
    assert encoded["train"]["text"].shape == (12, 10, 16)
    assert "0 of 24 samples cut at 10 tokens; of 48 words 0 lost" in result.output
    result = runner.invoke(
        app, ["encode-text", str(feature_file), str(output), "-p", str(tiny_encoder),
              "--max-length", "3", "-g", "cpu"],
    )  # fmt: skip
    assert "24 of 24 samples cut at 3 tokens" in result.output
    assert "warning: 50.0% of the words are cut off; --max-length 4" in result.output


def test_list_names_models_papers_and_data_sets():
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0
    for part in ("dashfusion", "text_only", "self_mm", "mosi, mosei, sims", "robustness"):
        assert part in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-m", "dashfusoin"], "did you mean dashfusion"),
        (["run", "-d", "mossi"], "did you mean mosi"),
        (["run", "--set", "learning_rate"], "KEY=VALUE"),
        (["run", "--set", "learning_rat=1"], "did you mean learning_rate"),
        (["run", "--set", "a=1", "--set", "b=1", "--set", "a=2"], "--set a is given twice"),
        (["run", "--set", "=1"], "KEY=VALUE"),
        (["run", "--set", "infoenh..k=1"], "KEY=VALUE"),
        (["run", "--set", "learning_rate=NaN"], "NaN is no number"),
        (["run", "--set", 'a={"k": 1, "k": 2}'], "--set a: the key 'k' is there twice"),
        (["run", "-m", "lf_dnn", "--set", "lr=1"], "did you mean learning_rate"),
        (["run", "-m", "lf_dnn", "--set", "use_bert=True"], "give true or false"),
        (["run", "-m", "lf_dnn", "--set", "num_epochs=0"], "a whole number from 1"),
        (["run", "-m", "fdmer"], "run fdmer_reconstructed"),
        (["run", "-tt", "3"], "add --tune"),
        (["run", "--smoke", "--repeat"], "keeps nothing: leave out --repeat"),
        (["run", "--smoke", "-t", "--log-dir", "x"], "leave out --tune, --log-dir"),
        (["run", "--smoke", "-s", "1", "-s", "2"], "leave out more than one --seeds"),
        (["run", "--smoke", "-s", "-1"], "-1 is no seed"),
        (["run", "--smoke", "--set", "num_epochs=0"], "num_epochs"),
        (["run", "--tune-on-test"], "add is_tune=True (--tune)"),
        (["run", "--synthetic", "-f", __file__], "leave one out"),
        (["run", "-s", "-1"], "-1 is no seed"),
        (["run", "-g", "all"], "gpu_ids has 'all'"),
        (["run", "-n", "-1"], "num_workers is -1"),
        (["run", "-v", "3"], "use 0, 1 or 2"),
        (["run", "-c", "none.json"], "none.json"),
        (["run", "--res-save-dir", "x" * 3900], "the path is too long"),
        (["run", "-f", "nowhere.pkl"], "nowhere.pkl"),
        (["predict", "none.pth", "none.pkl"], "none.pth"),
        (["predict", __file__, "--text", "a", "-o", "x.csv"], "-o has no effect on --text"),
        (["check-data", "none.pkl"], "none.pkl"),
        (["check-data"], "No feature file is given"),
        (["check-data", __file__, "--front-padding", "flip"], "front_padding is 'flip'"),
        (["experiment", "run", "robustnes"], "did you mean robustness"),
    ],
)
def test_mistakes_give_one_message_and_no_traceback(arguments, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["mmsa-ext", *arguments])
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    assert exit_.value.code != 0
    assert said in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_overrides_are_json_where_they_parse():
    assert parse_overrides(["a=1", "b=[1, 2]", "c=bert", "d=null", "e=x=y", "f=true"]) == {
        "a": 1, "b": [1, 2], "c": "bert", "d": None, "e": "x=y", "f": True,
    }  # fmt: skip


@pytest.mark.parametrize(("typed", "meant"), [("rum", "run"), ("check-dta", "check-data")])
def test_a_misspelt_command_is_answered_with_the_nearest(typed, meant, capsys):
    result = runner.invoke(app, [typed])
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'" in result.output


def test_a_misspelt_option_is_answered_with_the_nearest():
    result = runner.invoke(app, ["run", "--modle", "x"])
    assert result.exit_code == 2
    assert "--model" in result.output


def test_a_seed_given_twice_is_run_once(tmp_path, feature_file):
    short = ["run", "-m", "lf_dnn", "-f", str(feature_file), "--set", "early_stop=0", "-v", "0"]
    result = runner.invoke(app, [*short, "-s", "7", "-s", "7", *options(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "r" / "runs").rglob("*.json"))) == 1


def test_that_there_is_no_gpu_is_said_in_one_line(tmp_path, feature_file, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    short = ["run", "-m", "lf_dnn", "-f", str(feature_file), "--set", "early_stop=0", "-s", "7"]
    with_gpu = [word if word != "cpu" else "0" for word in options(tmp_path)]
    result = runner.invoke(app, [*short, *with_gpu])
    assert result.exit_code == 0, result.output
    said = [line for line in result.output.splitlines() if "the CPU is used" in line]
    assert said == [
        "MMSA - gpu_ids asks for CUDA device 0, but this machine has none for torch: the CPU is "
        "used."
    ]


def every_command(group=None, prefix=""):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        yield f"{prefix}{name}"
        if hasattr(command, "commands"):
            yield from every_command(command, f"{prefix}{name} ")


@pytest.mark.parametrize("command", list(every_command()))
def test_every_command_explains_itself(command):
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


# What takes seconds to import. `--help`, and a mistake in the options, need none of it.
HEAVY = ("torch", "MMSA", "numpy", "pandas", "scipy", "matplotlib", "transformers", "av", "joblib")

IMPORTED = """
import json, sys
from MMSA_ext.cli import main
found = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["mmsa-ext", *arguments]
    try:
        main()
    except SystemExit as ended:
        found[" ".join(arguments)] = [ended.code, sorted(set(HEAVY) & sys.modules.keys())]
print("\\n" + json.dumps(found))
"""


def imported(heavy, commands, **options):
    """The exit code of each command, and what of `heavy` was imported by then, in one process."""
    script = IMPORTED.replace("HEAVY", repr(heavy))
    command = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_help_and_usage_errors_import_nothing_heavy():
    helps = [[*command.split(), "--help"] for command in every_command()]
    mistakes = [["run", "--nope"], ["explain", "cases"], ["experiment", "run"], ["nope"]]
    mistakes += [["run", "-m", "dashfusoin"], ["tune", "-d", "mossi"], ["run", "-s", "a"]]
    mistakes += [["run", "-m", "fdmer"], ["complexity", "lf_dn"], ["complexity", "lmf", "smis"]]
    mistakes += [["run", "-f", "no.pkl"], ["tune", "-c", "no.json"], ["run", "-Ft", "no.pkl"]]
    mistakes += [["predict", "no.pth", "no.pkl"], ["check-data", "no.pkl"]]
    mistakes += [["experiment", "run", "robustnes"], ["experiment", "table", "no.json"]]
    found = imported(HEAVY, [["--help"], *helps, *mistakes])
    assert len(found) == 1 + len(helps) + len(mistakes)
    for arguments, (code, heavy) in found.items():
        assert code == (0 if arguments.endswith("--help") else 2), arguments
        assert heavy == [], arguments


def test_the_list_needs_neither_torch_nor_mmsa():
    found = imported(("torch", "MMSA", "pandas", "transformers"), [["list"]])
    assert found == {"list": [0, []]}


def test_commands_on_records_and_files_need_no_torch(tmp_path):
    commands = ["compare a b", "power a b", "result-stat", "check-data x.pkl"]
    given = [command.split() for command in commands]
    environment = os.environ | {"HOME": str(tmp_path)}
    found = imported(("torch", "MMSA"), given, cwd=tmp_path, env=environment)
    assert found == {command: [2, []] for command in commands}


def test_warnings_are_one_line_without_the_place_in_the_code(tmp_path):
    (record := tmp_path / "runs" / "mosi" / "text_only" / "0.json").parent.mkdir(parents=True)
    record.write_text("{")
    command = [sys.executable, "-m", "MMSA_ext", "result-stat", "--res-save-dir", str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    assert any(line.startswith(f"warning: {record}: this run record is damaged") for line in lines)
    assert not any("StoreWarning" in line for line in lines)


def test_without_arguments_it_helps():
    result = runner.invoke(app, [])
    assert result.exit_code == 0
    assert "Commands" in result.output


def test_version():
    from MMSA_ext import __version__

    assert runner.invoke(app, ["--version"]).output == f"mmsa-ext {__version__}\n"


def test_model_and_data_set_are_arguments_or_options(monkeypatch):
    from MMSA_ext.cli import runs

    seen = []
    monkeypatch.setattr(
        runs, "_run", lambda model, dataset, *_, **__: seen.append((model, dataset))
    )
    for arguments in (["almt", "sims"], ["almt", "-d", "sims"], ["-m", "almt", "-d", "sims"], []):
        for command in ("run", "tune"):
            assert runner.invoke(app, [command, *arguments]).exit_code == 0
    assert seen == [("almt", "sims")] * 6 + [("dashfusion", "mosi")] * 2
    result = runner.invoke(app, ["run", "almt", "-m", "dbf"])
    assert isinstance(result.exception, ConfigError)
    assert "leave one out" in str(result.exception)
    assert "did you mean almt" in str(runner.invoke(app, ["run", "alm"]).exception)


def test_config_explains_every_key():
    shown = runner.invoke(app, ["config", "dashfusion", "sims", "--set", "dim=64"]).output
    assert "dim = 64  [given]" in shown
    assert 'pretrained = "bert-base-chinese"  [shipped file, sims]' in shown
    assert "    Attention heads.\n" in shown
    assert "own code" not in shown
    assert "read by MMSA's own code" in runner.invoke(app, ["config", "self_mm", "mosi"]).output


def test_what_a_code_page_lacks_does_not_end_a_command(monkeypatch):
    """As on Windows, where a pipe has no arrow."""
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setattr("sys.argv", ["mmsa-ext", "--version"])
    with pytest.raises(SystemExit):
        main()
    pipe.write("MAE \N{DOWNWARDS ARROW}")
    pipe.flush()
    assert pipe.buffer.getvalue().decode("cp1252").endswith("MAE ?")
