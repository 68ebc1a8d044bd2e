"""What all benchmarks print: the machine by name, then CSV; and how they measure."""

import io

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def measuring():
    import measuring

    return measuring


def test_csv_names_machine_and_versions_and_is_printed_and_written(measuring, tmp_path, capsys):
    rows = [{"model": "a", "seconds": 1.5}, {"model": "b", "seconds": 2.5, "note": "x"}]
    out = tmp_path / "folder" / "out.csv"
    measuring.write_csv(rows, str(out), packages=["POT"])
    text = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    for key in ("processor", "cores", "threads", "python", "torch", "POT", "command"):
        assert f"# {key}: " in text
    table = pd.read_csv(io.StringIO(text), comment="#")
    assert table["seconds"].tolist() == [1.5, 2.5]
    assert table["note"].tolist()[1] == "x"


def test_the_command_is_shown_without_folders_of_this_machine(measuring, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/someone/benchmarks/step.py", "--out", "/data/x.csv"])
    measuring.write_csv([{"a": 1}])
    assert "# command: python step.py --out x.csv\n" in capsys.readouterr().out


def test_warm_up_calls_do_not_count(measuring):
    calls = []
    taken = measuring.seconds(lambda: calls.append(1), repeats=3, warm_up=2)
    assert (len(calls), len(taken)) == (5, 3)
    assert measuring.median_seconds(lambda: None, repeats=3) < 0.1


def test_a_process_of_its_own_answers_in_json(measuring, tmp_path):
    script = tmp_path / "child.py"
    script.write_text("import json, sys\nprint('x')\nprint(json.dumps({'got': sys.argv[1:]}))\n")
    assert measuring.run_in_process(["a", "b"], str(script)) == {"got": ["--child", "a", "b"]}
    script.write_text("raise SystemExit('no luck')\n")
    with pytest.raises(SystemExit, match="no luck"):
        measuring.run_in_process(["a"], str(script))
