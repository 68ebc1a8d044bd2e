"""Arguments and surroundings that cannot be meant: one sentence each, from Python and a terminal.

Five attacks, of which each has a table:

- `calls`: calls of `MMSA_run` and commands of `mmsa-ext` that are wrong, each with its reason;
  none may be accepted.
- `odd_values`: every argument of `MMSA_run` with every odd value; what is accepted trains nothing.
- `odd_configurations`: random keys of random models with odd values, in `config=`.
- `damaged_files`: configuration files with bytes changed, cut, or parts of their content replaced.
- `surroundings`: processes without a home folder, of a user that no password file knows; and how
  long it takes to be told of a name that is misspelt.

`python -m tests.attack.arguments [TRIES]`, with 3,000 TRIES of each of the random ones by default.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from MMSA_ext import MMSA_run, mmsa_bridge, mmsa_files
from MMSA_ext.cli import main
from MMSA_ext.config import resolve as config
from MMSA_ext.config.files import supported_datasets
from MMSA_ext.errors import MMSAExtError
from MMSA_ext.registry import list_models
from MMSA_ext.runs.seeds import Run
from tests.attack.tally import Tally
from tests.conftest import make_feature_data

REFUSED = "one sentence"
ACCEPTED = "accepted"
SLOW = "longer than 20 s"
SECONDS = 20
# Ours, MMSA's and a variant of MMSA's.
MODELS = ("text_only", "lf_dnn", "lf_dnn_infoenh")

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 1.5, 2**31, 2**40, 2**63, -(2**63), 10**400),
    *(float("nan"), float("inf"), np.int64(3), np.float32(0.5), np.bool_(True), 3 + 4j),
    *("", " ", "a", "1111", "-1", "0", "None", "a\0b", "\ud800", "x" * 3900, "ä\n", b"x", "~no/x"),
    *((), [], [1], ["a"], [None], [[1]], (1, 2), {1}, {}, {"a": 1}, {1: 2}, np.zeros(2)),
    *(object(), len, int, range(3), Path("none"), Path("/"), Path("/dev/zero")),
)


class Place:
    """A folder with a sound feature file and what else there may be under a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.features = folder / "features.pkl"
        self.features.write_bytes(pickle.dumps(make_feature_data()))
        self.file, self.pipe, self.out = folder / "file", folder / "pipe", folder / "out"
        self.file.write_text("{}")
        os.mkfifo(self.pipe)
        self.section = mmsa_files.section("lf_dnn")

    def configuration(self, content: bytes | str | dict[str, Any]) -> Path:
        """A configuration file with that content."""
        path = self.folder / "configuration.json"
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Arguments of `MMSA_run` that can be meant, with some of them changed."""
        folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), self.out)
        sound = {"model_name": "lf_dnn", "dataset_name": "mosi", "custom_feature": self.features}
        return {**folders, **sound, "verbose_level": 0, "gpu_ids": "cpu", "seeds": [1], **changes}


class _Hangs(BaseException):
    pass


class _Accepted(BaseException):
    pass


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _nothing_is_trained() -> Iterator[None]:
    with (
        mock.patch.object(Run, "_look_up", side_effect=_Accepted),
        mock.patch.object(Run, "_train", side_effect=_Accepted),
        mock.patch("MMSA_ext.runs.tuning.tune", side_effect=_Accepted),
    ):
        yield


def outcome(call: Callable[[], object]) -> str:
    """How a call ends: refused in one sentence, accepted, or in a way that must not be."""
    try:
        with _limited(), _nothing_is_trained():
            call()
    except _Accepted:
        return ACCEPTED
    except _Hangs:
        return SLOW
    except MMSAExtError as error:
        return REFUSED if 10 < len(str(error)) < 3000 else f"a message of {len(str(error))}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} from {Path(where.filename).name}:{where.lineno}"
    return ACCEPTED


def typed(arguments: list[str]) -> str:
    """How a command ends, as typed: an exit code with one message, or otherwise."""
    output = io.StringIO()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["mmsa-ext", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            with _limited(), _nothing_is_trained():
                main()
        except SystemExit as ended:
            code = ended.code
        except (_Accepted, _Hangs) as ended:
            return ACCEPTED if isinstance(ended, _Accepted) else SLOW
        except Exception as error:
            return f"{type(error).__name__} in the terminal"
    said = output.getvalue()
    if code in (1, 2) and said.count("rror") and "Traceback" not in said:
        return REFUSED
    return ACCEPTED if code == 0 else f"exit code {code}: {said[-80:]}"


def wrong_calls(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments of `MMSA_run` that are wrong, whatever the model, with what is wrong."""
    long, nul = "x" * 3900, "a\0b"
    no_file = [long, nul, place.pipe, place.folder, "none", 5, "/dev/zero", "~no/x"]
    no_folder = [long, nul, place.file, place.file / "x", 5, "~no/x", place.pipe]
    for name, values in {
        "seeds": ["1111", ["1111"], [-1], -1, [2**32], 2**40, True, [True], 1.5, [1.0], "a"],
        "gpu_ids": [None, "x", "", "0,1", True, 1.5, ["x"], [None], "cuda:0", [[0]], b"0"],
        "num_workers": [-1, "4", None, True, 1.5],
        "verbose_level": [3, -1, "1", None, True, [1]],
        "tune_times": [0, -1, "5", None, 1.5],
        "tune_on_test": [True, "no"],
        "is_tune": ["False", 2],
        "reuse": ["no", None],
        "model_name": ["lf_dn", "", None, 5, "lf_dnn ", b"lf_dnn"],
        "dataset_name": ["mossi", "", None, 5],
        "config": ["a", 5, [("a", 1)], {1: 2}, {"a": {1: 2}}, {"my_key": 1}, {"lr": 1e-3}],
        **dict.fromkeys(("custom_feature", "feature_T", "config_file"), no_file),
        **dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), no_folder),
    }.items():
        for value in values:
            yield f"{name}={value!r:.40}", {name: value}
    for key, value in {
        "train_mode": "classification",
        "num_classes": 7,
        "cur_seed": 3,
        "device": "cuda",
        "dataset_name": "mosei",
        "batch_size": 0,
        "KeyEval": "mae",
        "early_stop": "soon",
        "learning_rate": -1.0,
        "corruption": {"remov": ["audio"]},
        "infoenh": {"kk": 4},
        "feature_dims": [1, 2],
    }.items():
        yield f"config {key}={value!r}", {"config": {key: value}}


def wrong_values(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Configurations of single models that are wrong, and configuration files."""
    for model, key, value in (
        ("lf_dnn", "num_epochs", 0),
        ("self_mm", "num_epochs", "1"),
        ("misa", "weight_decay", 0.5),
        ("mfm", "learning_rate", 0.5),
        ("mult", "pretrained", "minilm"),
        ("tfr_net", "fusion_t_in", 5),
        ("mfn", "NN1Config", {"dorp": 0.1}),
        ("mfn", "NN1Config", 5),
        ("mfn", "NN1Config.drop", 2),
        ("lf_dnn", "use_bert", "False"),
        ("lf_dnn", "dropouts", [0.1]),
        ("lf_dnn", "hidden_dims", 4),
        ("lf_dnn", "hidden_dims", [4, 4, 0]),
        ("self_mm", "save_labels", True),
        ("self_mm", "infoenh", {"k": 4}),
        ("graph_mfn", "infoenh", {"k": 4}),
        ("dashfusion", "learning_rat", 1),
        ("dashfusion", "learning_rate", float("nan")),
        ("dashfusion", "num_classes", 7),
        ("dashfusion", "pretrained", "a@b"),
        ("dashfusion", "pretrained", "x" * 3900),
        ("self_mm", "pretrained", "a b"),
        ("self_mm", "pretrained", "~nobody-of-this-name/x"),
    ):
        yield f"{model} {key}={value!r}", {"model_name": model, "config": {key: value}}
    section = place.section
    lacking, longer = copy.deepcopy(section), copy.deepcopy(section)
    del lacking["datasetParams"]["mosi"]["hidden_dims"]
    longer["commonParams"]["x"] = 1
    text = json.dumps({"lf_dnn": section, "ä": {}}, ensure_ascii=False)
    for what, content in {
        "UTF-16": text.encode("utf-16"),
        "Latin-1": text.encode("latin-1"),
        "no JSON": b"{broken",
        "empty": b"",
        "a list": b"[1]",
        "deep": b"[" * 100_000,
        "a key twice": b'{"lf_dnn": {}, "lf_dnn": {}}',
        "NaN": b'{"lf_dnn": NaN}',
        "a huge number": b'{"lf_dnn": ' + b"9" * 5000 + b"}",
        "no object": {"lf_dnn": 5},
        "no commonParams": {"lf_dnn": {"datasetParams": section["datasetParams"]}},
        "no data set": {"lf_dnn": {"commonParams": section["commonParams"], "datasetParams": {}}},
        "a missing key": {"lf_dnn": lacking},
        "a key too many": {"lf_dnn": longer},
        "a broken data set": {"lf_dnn": section, "datasetCommonParams": {"mosi": {}}},
        "a root that is none": {"lf_dnn": section, "datasetCommonParams": {"dataset_root_dir": 5}},
    }.items():
        yield f"config_file: {what}", {"config_file": (what, content)}


def wrong_commands(place: Place) -> Iterator[list[str]]:
    """Commands that are wrong, without the folders that keep them from writing elsewhere."""
    run = ["run", "-m", "lf_dnn", "-f", str(place.features)]
    long = "x" * 3900
    for more in (
        *(["-s", "a"], ["-s", "-1"], ["-s", "1.5"], ["-s", str(2**40)], ["-n", "-1"], ["-n", "a"]),
        *(["-v", "3"], ["-v", "x"], ["-tt", "3"], ["-t", "-tt", "0"], ["--tune-on-test"]),
        *(["-g", "x"], ["-g", ""], ["-m", "lf_dn"], ["-d", "mossi"], ["-m", ""], ["--nope"]),
        *(["--modle", "x"], ["--set", "a"], ["--set", "=1"], ["--set", "a=1", "--set", "a=2"]),
        *(["--set", "lr=1"], ["--set", "num_epochs=0"], ["--set", "batch_size=x"]),
        *(["--set", "batch_size=NaN"], ["--set", "a..b=1"], ["--set", "use_bert=True"]),
        *(["--set", 'a={"k":1,"k":2}'], ["--set", "batch_size=" + "[" * 9999]),
        *(["--set", "train_mode=classification"], ["--set", "seeds=1"], ["--set", "device=cpu"]),
        *(["-c", long], ["-c", str(place.pipe)], ["-c", str(place.folder)], ["-c", "none"]),
        *(["-f", long], ["-f", str(place.pipe)], ["-f", str(place.folder)], ["-f", "none"]),
        *(["-Ft", long], ["-Fa", str(place.pipe)], ["-Fv", "none"], ["--synthetic"]),
        *(["--log-dir", long], ["--log-dir", str(place.file)], ["--res-save-dir", str(place.file)]),
        *(["--model-save-dir", str(place.pipe)], ["extra"]),
    ):
        yield [*run, *more]
    yield from (
        ["rum"],
        ["tune", "-m", "lf_dn"],
        ["tune", "-m", "lf_dnn", "-tt", "0", "-f", str(place.features)],
        ["predict", "none.pth", str(place.features)],
        ["predict", long, str(place.features)],
        ["predict", str(place.pipe), str(place.features)],
        ["check-data", "none.pkl"],
        ["check-data", str(place.folder)],
        ["check-data", long],
        ["check-data", str(place.pipe)],
        ["encode-text", str(place.pipe), str(place.folder / "x.pkl")],
        ["standardise", str(place.pipe), str(place.folder / "x.pkl")],
        ["predict", "none.pth", str(place.pipe)],
        ["explain", "cases", str(place.pipe), "-o", str(place.out), "--row", "a=b"],
        ["complexity", "dashfusoin"],
        ["complexity", "dashfusion", "mossi"],
        ["complexity", "dashfusion", "sims", "--set", "lr=1"],
        ["experiment", "run", "robustnes"],
        ["experiment", "run", str(place.folder / "none.json")],
        ["experiment", "run", str(place.pipe)],
        ["experiment", "run", "robustness", "-s", "-1"],
        ["experiment", "run", "robustness", "-d", "mossi"],
        ["experiment", "run", "baselines_sims", "--set", "my_key=1"],
        ["experiment", "run", "baselines_sims", "--set", "lf_dnn:num_epochs=0"],
        ["experiment", "run", "baselines_sims", "-v", "3"],
        ["experiment", "run", "baselines_sims", "-g", "x"],
        ["experiment", "run", "baselines_sims", "-n", "-1"],
        ["experiment", "status", "baselines_sims", "-f", str(place.pipe)],
        ["experiment", "run", "baselines_sims", "-f", str(place.pipe)],
        ["experiment", "run", "baselines_sims", "-f", long],
        ["verify", "--res-save-dir", long],
        ["report", "--res-save-dir", "a\0b"],
    )


def calls(place: Place) -> Tally:
    """Everything that is wrong for a known reason."""
    tally = Tally("arguments that cannot be meant")
    for model in MODELS:
        for what, changes in wrong_calls(place):
            arguments = place.arguments(**{"model_name": model, **changes})
            tally.add(outcome(lambda a=arguments: MMSA_run(**a)), f"{model} {what}")
    for what, changes in wrong_values(place):
        if "config_file" in changes:
            changes = {"config_file": place.configuration(changes["config_file"][1])}
        arguments = place.arguments(**changes)
        tally.add(outcome(lambda a=arguments: MMSA_run(**a)), what)
    folders = ("--model-save-dir", "--res-save-dir", "--log-dir")
    for command in wrong_commands(place):
        takes = command[0] in ("run", "tune") or command[:2] == ["experiment", "run"]
        kept = [w for f in folders if takes and f not in command for w in (f, str(place.out))]
        tally.add(typed([*command, *kept]), f"mmsa-ext {' '.join(command)[:150]}")
    return tally


def odd_values(place: Place) -> Tally:
    """Every argument of `MMSA_run` with every odd value."""
    tally = Tally("arguments of MMSA_run with odd values")
    with contextlib.chdir(place.folder):
        for name in inspect.signature(MMSA_run).parameters:
            for value in ODD:
                arguments = place.arguments(**{name: value})
                tally.add(outcome(lambda a=arguments: MMSA_run(**a)), f"{name}={value!r:.60}")
    return tally


def odd_configurations(place: Place, tries: int) -> Tally:
    """Random keys of random models, with odd values."""
    tally = Tally("configurations with odd values")
    chance = random.Random(0)
    models = [*list_models(), *mmsa_files.models()]
    known = {name: config.resolve(name, supported_datasets(name)[0]) for name in models}
    for _ in range(tries):
        model = chance.choice(models)
        args = known[model]
        keys = [path for path, _ in mmsa_bridge.leaves(args)] + ["lr", "a.b", "", ".", "corruption"]
        given = {
            chance.choice([key, key.partition(".")[0]]): chance.choice(ODD)
            for key in chance.sample(keys, chance.randint(1, 3))
        }
        call = lambda: config.resolve(model, args.dataset_name, "", given)  # noqa: B023, E731
        tally.add(outcome(call), f"{model} {given!r:.150}")
    return tally


def damaged_files(place: Place, tries: int) -> Tally:
    """Configuration files of users with something changed."""
    tally = Tally("damaged configuration files")
    chance = random.Random(1)
    models = ("lf_dnn", "mfn", "self_mm", "mult")
    for number in range(tries):
        model = chance.choice(models)
        content = {model: mmsa_files.section(model)}
        content["datasetCommonParams"] = copy.deepcopy(mmsa_files.datasets())
        if number % 2:
            _replace_somewhere(content, chance)
            damaged = json.dumps(content).encode()
        else:
            damaged = _changed_bytes(json.dumps(content).encode(), chance)
        path = place.configuration(damaged)
        kind = chance.choice((config.get_config_regression, config.resolve))
        call = lambda: kind(model, "mosi", path)  # noqa: B023, E731
        tally.add(outcome(call), f"try {number}")
    return tally


def _replace_somewhere(content: dict[str, Any], chance: random.Random) -> None:
    above: Any = content
    while True:
        key = chance.choice(list(above))
        if not isinstance(above[key], dict) or not above[key] or chance.random() < 0.3:
            break
        above = above[key]
    values = [v for v in ODD if isinstance(v, str | int | float | list | dict | None)]
    values = [v for v in values if not isinstance(v, dict) or all(isinstance(k, str) for k in v)]
    if chance.random() < 0.3:
        del above[key]
    else:
        above[key] = chance.choice(values)


def _changed_bytes(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    if chance.random() < 0.3:
        return bytes(changed[: chance.randrange(len(changed))])
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


# Before a script: the password file knows nobody, as in a container that runs under a number.
NOBODY = """
import pwd
def missing(number): raise KeyError(number)
pwd.getpwuid = missing
"""
TERMINAL = "from MMSA_ext.cli import main; main()"
PYTHON = """
from MMSA_ext import MMSAExtError
try:
    from MMSA_ext import MMSA_run
    MMSA_run("lf_dnn", "mosi")
except MMSAExtError as error:
    raise SystemExit(f"error: {error}")
"""
AT_ONCE = 1.5  # seconds of the processor; torch alone takes longer


def surroundings(place: Place) -> Tally:
    """Without a home folder and an entry in the password file, and how fast mistakes are said."""
    tally = Tally("surroundings")
    kept = ("PATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "LANG")
    plain = {name: os.environ[name] for name in kept if name in os.environ}
    plain["PYTHONPATH"] = str(Path(__file__).parents[2])
    run = ["run", "-m", "lf_dnn", "-f", str(place.features)]
    for what, script, arguments, seconds in (
        ("run without a home", TERMINAL, run, SECONDS),
        ("run without a home, but with a folder", TERMINAL, [*run, "--log-dir", "x"], SECONDS),
        ("verify without a home", TERMINAL, ["verify"], SECONDS),
        ("report without a home", TERMINAL, ["report"], SECONDS),
        ("MMSA_run without a home", PYTHON, [], SECONDS),
        ("an unknown model", TERMINAL, ["run", "-m", "dashfusoin"], AT_ONCE),
        ("an unknown data set", TERMINAL, ["run", "-d", "mossi"], AT_ONCE),
        ("an unknown option", TERMINAL, ["run", "--modle", "x"], AT_ONCE),
        ("an unknown command", TERMINAL, ["rum"], AT_ONCE),
        ("a seed that is none", TERMINAL, ["run", "-s", "a"], AT_ONCE),
    ):
        command = [sys.executable, "-c", NOBODY + script, *arguments]
        began = os.times().children_user
        done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=300)
        used = os.times().children_user - began
        fine = done.returncode in (1, 2) and "Traceback" not in done.stderr
        fine = fine and done.stderr.count("rror") == 1 and used < seconds
        tally.add(REFUSED if fine else f"{done.stderr[-150:]} ({used:.1f} s)", what)
    return tally


def everything(folder: Path, tries: int) -> list[tuple[Tally, set[str]]]:
    """All attacks, each with the outcomes that are allowed."""
    place = Place(folder)
    either = {REFUSED, ACCEPTED}
    return [
        (calls(place), {REFUSED}),
        (odd_values(place), either),
        (odd_configurations(place, tries), either),
        (damaged_files(place, tries), either),
        (surroundings(place), {REFUSED}),
    ]


if __name__ == "__main__":
    number = int(sys.argv[1].replace(",", "")) if len(sys.argv) > 1 else 3000
    with tempfile.TemporaryDirectory() as scratch:
        for found, allowed in everything(Path(scratch), number):
            print(found.render())
            for result, examples in found.bad(allowed).items():
                print(f"  BAD {result}: {examples}")
