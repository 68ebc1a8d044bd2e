"""Attack on everything that reads records: junk beside good ones.

A small store is read by every reporting command, with and without junk in it. What a command says
of the good records must be the same, and each kind of junk must be named or be none of its
business.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from typer.testing import CliRunner

from MMSA_ext import mmsa_bridge
from MMSA_ext.cli import app
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.features import fingerprint
from MMSA_ext.records.store import (
    Environment,
    EpochRecord,
    RunIdentity,
    RunRecord,
    RunStore,
    StoreWarning,
)
from MMSA_ext.reporting.tables import render_table, write_seed_csv
from MMSA_ext.runs.identity import identifying_configuration, model_code_version
from tests.attack.tally import HangError, Tally, limited
from tests.conftest import make_feature_data

TRIES = 0
MODEL, SEEDS, LIMIT_SECONDS = "lf_dnn", (1, 2, 3), 60
PASSED_OVER, UNHARMED = "passed over and named; all else is as without it", "as without it"
SAFE = (PASSED_OVER, UNHARMED)


@dataclass
class Case:
    """A results folder of two rows and three seeds, and what it takes to read it."""

    folder: Path
    features: Path
    experiment: Path

    @property
    def store(self) -> RunStore:
        return RunStore(self.folder / "runs")

    @property
    def records(self) -> list[RunRecord]:
        return list(self.store.records())


def prepare(folder: Path) -> Case:
    """Two rows of one model, whose metrics are those of their predictions."""
    folder.mkdir(parents=True)
    features = folder / "features.pkl"
    data = make_feature_data()
    features.write_bytes(pickle.dumps(data, protocol=4))
    rows = [
        {"label": f"stop {stop}", "model": MODEL, "config": {"early_stop": stop}} for stop in (1, 2)
    ]
    content = {
        "title": "Two rows", "source": {"paper": "none"}, "datasets": ["mosi"],
        "seeds": list(SEEDS), "columns": {"mosi": ["MAE", "Corr"]}, "rows": rows,
        "baseline": "stop 1",
    }  # fmt: skip
    experiment = folder / "rows.json"
    experiment.write_text(json.dumps(content))
    case = Case(folder / "results", features, experiment)
    for row in rows:
        for seed in SEEDS:
            case.store.write(*_run(row["config"], seed, data, fingerprint(features)))
    return case


def _run(config: dict, seed: int, data: dict, sha256: str) -> tuple[RunRecord, pd.DataFrame]:
    numbers = np.random.default_rng([seed, config["early_stop"]])
    tables, metrics = [], {}
    for split in ("train", "valid", "test"):
        label = data[split]["regression_labels"]
        guess = (label + numbers.normal(size=len(label))).astype(np.float32)
        values = {"split": split, "id": data[split]["id"], "label": label, "prediction": guess}
        tables.append(pd.DataFrame(values))
        scored = mmsa_bridge.metrics("mosi")(torch.from_numpy(guess), torch.from_numpy(label))
        metrics[split] = scored | {"Loss": scored["MAE"]}
    made = RunRecord(
        identity=RunIdentity(
            dataset="mosi",
            dataset_fingerprint=sha256,
            model=MODEL,
            configuration=identifying_configuration(resolve(MODEL, "mosi", overrides=config)),
            seed=seed,
            code_version=model_code_version(MODEL),
        ),
        status="finished",
        metrics=metrics,
        history=tuple(
            EpochRecord(epoch=epoch, train={"Loss": 1 / epoch}, valid={"MAE": 1 / epoch})
            for epoch in (1, 2)
        ),
        chosen_epoch=2,
        selection="lowest validation Loss",
        environment=Environment(device="cpu", python="3", platform="any"),
        timings={"total": 3.0},
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return made, pd.concat(tables)


# --- junk --------------------------------------------------------------------------------------

# Where a record could lie, and the content of a good one of no run that is there.
Junk = Callable[[Path, dict[str, Any]], None]


def _text(change: Callable[[str], str]) -> Junk:
    return lambda path, good: path.write_text(change(json.dumps(good)), encoding="utf-8")


def _key(*keys: str, value: Any) -> Junk:
    """A good record but for one value, under the name that its identity then gives."""

    def write(path: Path, good: dict[str, Any]) -> None:
        place = good
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        with suppress(Exception):
            identity = RunIdentity.model_validate(good["identity"])
            path = path.with_name(f"{identity.short_id}-seed{identity.seed}.json")
        path.write_text(json.dumps(good), encoding="utf-8")

    return write


def _raw(content: bytes) -> Junk:
    return lambda path, good: path.write_bytes(content)


def _replaced(old: str, new: str) -> Junk:
    return _text(lambda text: text.replace(old, new, 1))


def _sparse(path: Path, good: dict[str, Any]) -> None:
    with path.open("wb") as file:
        file.truncate(2 * 2**30)


def _socket(path: Path, good: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX) as listening, chdir(path.parent):  # its path is short
        listening.bind(path.name)


def _unreadable(path: Path, good: dict[str, Any]) -> None:
    path.write_text(json.dumps(good))
    path.chmod(0)


def _copied(path: Path, good: dict[str, Any]) -> None:
    shutil.copy(next(iter(sorted(path.parent.glob("*.json")))), path)


_DEEP = "[" * 400 + "]" * 400
JUNK: dict[str, Junk] = {
    "empty": _raw(b""),
    "truncated": _text(lambda text: text[: len(text) // 2]),
    "a list": _raw(b"[]"),
    "null": _raw(b"null"),
    "a number": _raw(b"1"),
    "nested 100,000 deep": _raw(b"[" * 100_000),
    "nested 100,000 deep, closed": _raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "configuration nested 400 deep": _replaced('"early_stop": 1', f'"early_stop": {_DEEP}'),
    "an integer of 5,000 digits": _replaced('"seed": 77', f'"seed": {"7" * 5000}'),
    "an integer of 4,000 digits as seed": _key("identity", "seed", value=10**3999),
    "a seed of 2^70": _key("identity", "seed", value=2**70),
    "a negative seed": _key("identity", "seed", value=-1),
    "a number of 400 digits as metric": _key("metrics", "test", "MAE", value=10**400),
    "NaN": _replaced('"chosen_epoch": 2', '"chosen_epoch": NaN'),
    "NaN as metric": _replaced('"Corr": ', '"Corr": NaN, "C": '),
    "Infinity": _replaced('"Corr": ', '"Corr": Infinity, "C": '),
    "-Infinity in the configuration": _replaced('"early_stop": 1', '"early_stop": -Infinity'),
    "date beyond year 9999": _key("created", value="9999-12-31T23:59:59-14:00"),
    "date before year 1": _key("created", value="0001-01-01T00:00:00+14:00"),
    "date without time zone": _key("created", value="2026-01-01T00:00:00"),
    "date of 10^300 seconds": _key("created", value=1e300),
    "no date": _key("created", value="yesterday"),
    "epoch 2^80": _key("chosen_epoch", value=2**80),
    "threads 10^300": _key("environment", "threads", value=10**300),
    "metric named as HTML": _key("metrics", "test", "<img src=x onerror=alert(1)>", value=0.5),
    "metric named as LaTeX": _key("metrics", "test", "\\input{/etc/passwd}", value=0.5),
    "metric named as mathtext": _key("metrics", "test", "$\\frac$", value=0.5),
    "metric named as formula": _key("metrics", "test", "=1+1", value=0.5),
    "metric name with line ends": _key("metrics", "test", "a\nb\r| c |", value=0.5),
    "metric name of a megabyte": _key("metrics", "test", "x" * 2**20, value=0.5),
    "history named as mathtext": _key("history", value=[{"epoch": 1, "train": {"$\\frac$": 1.0}}]),
    "no metric name": _key("metrics", "test", "", value=0.5),
    "split named as HTML": _key("metrics", "</script><script>", value={"MAE": 1.0}),
    "metrics are a list": _key("metrics", value=[1, 2]),
    "schema 2": _key("schema_version", value=2),
    "schema 4": _key("schema_version", value=4),
    "schema of 10^300": _key("schema_version", value=10**300),
    "schema as text": _key("schema_version", value="1"),
    "unknown key": _key("more", value=1),
    "no identity": _replaced('"identity"', '"idendity"'),
    "model named as a path": _key("identity", "model", value="../../../etc"),
    "data set named as HTML": _key("identity", "dataset", value="<b>"),
    "half a character in the configuration": _key(
        "identity", "configuration", value={"a": "\ud800"}
    ),
    "not UTF-8": _raw("ünïcödé".encode("latin-1")),
    "UTF-16": lambda path, good: path.write_bytes(json.dumps(good).encode("utf-16")),
    "zeros": _raw(bytes(5000)),
    "a program": lambda path, good: shutil.copy("/bin/sh", path),
    "2 GB": _sparse,
    "FIFO": lambda path, good: os.mkfifo(path),
    "socket": _socket,
    "folder": lambda path, good: path.mkdir(),
    "link to itself": lambda path, good: path.symlink_to(path.name),
    "link to nowhere": lambda path, good: path.symlink_to("nowhere"),
    "link to /dev/zero": lambda path, good: path.symlink_to("/dev/zero"),
    "link to a terminal": lambda path, good: path.symlink_to("/dev/tty"),
    "unreadable": _unreadable,
    "copy of a good one": _copied,
    "link of folders to itself": lambda path, good: (
        path.parents[2].joinpath("loop").symlink_to("loop")
    ),
    "FIFO as a folder": lambda path, good: os.mkfifo(path.parents[2] / "fifo"),
}


# Instead of the predictions of seed 3 of the second row.
def _with_digest(change: Callable[[pd.DataFrame], pd.DataFrame | bytes]) -> Junk:
    """Predictions whose record has been made to vouch for them."""

    def write(path: Path, good: dict[str, Any]) -> None:
        changed = change(pd.read_csv(path, dtype={"id": str}))
        content = changed if isinstance(changed, bytes) else changed.to_csv(index=False).encode()
        path.write_bytes(content)
        record = path.with_name(path.name.replace(".predictions.csv", ".json"))
        said = json.loads(record.read_text())
        said["predictions_sha256"] = hashlib.sha256(content).hexdigest()
        record.write_text(json.dumps(said))

    return write


def _instead(make: Callable[[Path], Any]) -> Junk:
    def write(path: Path, good: dict[str, Any]) -> None:
        path.unlink()
        make(path)

    return write


PREDICTIONS: dict[str, Junk] = {
    "missing": _instead(lambda path: None),
    "empty": _raw(b""),
    "of another run": lambda path, good: path.write_bytes(
        next(p for p in sorted(path.parent.glob("*.csv")) if p != path).read_bytes()
    ),
    "FIFO": _instead(os.mkfifo),
    "folder": _instead(Path.mkdir),
    "link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "link to /dev/zero": _instead(lambda path: path.symlink_to("/dev/zero")),
    "2 GB": lambda path, good: _sparse(path, good),
    "vouched for: no table": _with_digest(lambda table: b"\xff\xfe\0"),
    "vouched for: other columns": _with_digest(lambda table: table[["split", "id"]]),
    "vouched for: words for numbers": _with_digest(lambda table: table.assign(prediction="x")),
    "vouched for: NaN": _with_digest(lambda table: table.assign(prediction=np.nan)),
    "vouched for: no test split": _with_digest(lambda table: table[table["split"] != "test"]),
    "vouched for: other samples": _with_digest(lambda table: table.assign(id=table["id"] + "x")),
    "vouched for: samples twice": _with_digest(lambda table: pd.concat([table, table])),
    "vouched for: other labels": _with_digest(lambda table: table.assign(label=0.0)),
}


# --- commands ----------------------------------------------------------------------------------


def commands(case: Case, out: Path, figures: Collection[str]) -> dict[str, list[str]]:
    """Every command that reads records, by name; what it writes goes to `out`."""
    results = ["--res-save-dir", str(case.folder)]
    with _warnings():
        runs = dict.fromkeys(run.identity.experiment for run in case.records)
    first, second = list(runs)
    shown = {
        "result-stat": ["result-stat", "-o", str(out / "stat.md"), *results],
        "report": [
            *("report", "-o", str(out / "report.html"), *results),
            *([] if "report" in figures else ["--no-figures"]),
        ],
        "compare": [
            *("compare", first, second, "--resamples", "100"),
            *("-o", str(out / "compare.csv"), *results),
        ],
        "power": ["power", first, second, "-o", str(out / "power.csv"), *results],
        "verify": ["verify", *results],
        "experiment status": [
            *("experiment", "status", str(case.experiment), "-f", str(case.features), *results),
        ],
        "experiment table": ["experiment", "table", str(case.experiment), *results],
        "explain cases": [
            *("explain", "cases", str(case.features), "-o", str(out / "cases"), *results),
            *("--row", f"a={MODEL}:early_stop=1", "--row", f"b={MODEL}:early_stop=2"),
        ],
    }
    for kind in figures:
        if kind != "report":
            shown[f"experiment figure {kind}"] = [
                *("experiment", "figure", str(case.experiment), "--kind", kind, *results)
            ]
    return shown


FIGURES = ("report", "comparison", "confusion", "curves")


def read_all(
    case: Case, out: Path, figures: Collection[str] = ()
) -> dict[str, tuple[str, list[str]]]:
    """What every command says of the records, and the warnings."""
    out.mkdir(parents=True)
    found = {}
    for name, arguments in commands(case, out, figures).items():
        with limited(LIMIT_SECONDS), _warnings() as said:
            result = CliRunner().invoke(app, arguments)
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        text = result.stdout + "".join(_content(out, case.folder / "experiments"))
        text = text.replace(str(out), "OUT").replace(str(case.folder), "RESULTS")
        found[name] = _plain(name, text), [*said, result.output]
        shutil.rmtree(out)
        shutil.rmtree(case.folder / "experiments", ignore_errors=True)
        out.mkdir()
    with limited(LIMIT_SECONDS), _warnings() as said:
        write_seed_csv(out / "seeds.csv", case.store.records())
        text = (out / "seeds.csv").read_text() + render_table(case.store.records("mosi"))
    found["seeds"] = text, list(said)
    return found


def _content(*folders: Path) -> Iterator[str]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".md", ".csv", ".tex", ".html", ".json"):
                yield f"\n{path.name}:\n{path.read_text()}"
            elif path.is_file():
                yield f"\n{path.name}"


def _plain(command: str, text: str) -> str:
    """Without what rightly tells of junk."""
    if command == "verify":
        text = "\n".join(line for line in text.splitlines() if not line.startswith("damaged: "))
        return re.sub(r"\d+ records: (\d+) give their metrics back, .*", r"\1 equal", text)
    text = re.sub(r", [\d.]+ MB\)", ")", text)  # of the page, with what it tells of junk
    return re.sub(r'<section class="warning".*?</section>\n', "", text, flags=re.DOTALL)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", StoreWarning)
        yield said
    said += [str(warning.message) for warning in caught]


# --- the attack --------------------------------------------------------------------------------


def lay_record(case: Case, name: str, *, number: int = 77) -> Path:
    """Put a kind of junk among the records; the path that a warning should name."""
    with _warnings():
        (first, *_) = case.records
    good = first.model_dump(mode="json") | {"predictions_sha256": None}
    good["identity"]["seed"] = 77
    good["identity"]["configuration"] |= {"early_stop": 1, "junk": number}
    path = case.store.path(first.identity).with_name(f"{number:016x}-seed77.json")
    before = set(case.store.root.rglob("*"))
    JUNK[name](path, good)
    (laid,) = set(case.store.root.rglob("*")) - before
    return laid


def lay_predictions(case: Case, name: str) -> Path:
    """Spoil the predictions of the last record."""
    path = case.store.predictions_path(case.records[-1].identity)
    PREDICTIONS[name](path, {})
    return path


# What reads predictions; the others show a record whose predictions are spoilt as it is.
_READS_PREDICTIONS = ("compare", "explain cases", "experiment figure confusion", "verify")


def together(folder: Path, figures: Collection[str] = FIGURES) -> Tally:
    """All kinds of records at once before every command."""
    tally = Tally("all junk at once beside good records, by command", SAFE)
    clean, out = prepare(folder), folder / "out"
    expected = read_all(clean, out, figures)
    with _copy(clean) as case:
        laid = [lay_record(case, name, number=place) for place, name in enumerate(JUNK)]
        for command, outcome in _outcomes(case, out, expected, laid, figures):
            tally.add(outcome, command)
    return tally


def one_by_one(folder: Path) -> Tally:
    """Every kind of record and of predictions before every command."""
    tried = f"{len(JUNK)} kinds of records, {len(PREDICTIONS)} of predictions, by command"
    tally = Tally(tried, SAFE)
    clean, out = prepare(folder), folder / "out"
    for kinds, lay, figures in (
        (JUNK, lay_record, ()),
        (PREDICTIONS, lay_predictions, ("confusion",)),
    ):
        shutil.rmtree(out, ignore_errors=True)
        expected = read_all(clean, out, figures)
        for name in kinds:
            with _copy(clean) as case:
                laid = [lay(case, name)]
                for command, outcome in _outcomes(case, out, expected, laid, figures):
                    tally.add(outcome, f"{command}: {name}")
    return tally


@contextmanager
def _copy(clean: Case) -> Iterator[Case]:
    folder = clean.folder.with_name("copy")
    shutil.copytree(clean.folder, folder)
    yield Case(folder, clean.features, clean.experiment)
    shutil.rmtree(folder)


def _outcomes(
    case: Case,
    out: Path,
    expected: dict[str, Any],
    laid: list[Path],
    figures: Collection[str],
) -> Iterator[tuple[str, str]]:
    shutil.rmtree(out, ignore_errors=True)
    try:
        found = read_all(case, out, figures)
    except (Exception, HangError) as error:  # what the attack is after
        yield "?", f"STOPPED: {type(error).__name__}: {str(error)[:300]}"
        return
    for command, (text, said) in found.items():
        same = text == expected[command][0]
        names = [path.name for path in laid if path.suffix in (".json", ".csv")]
        if laid[0].suffix == ".csv":
            if not (same or command in _READS_PREDICTIONS):
                yield command, "OTHER OUTPUT"
                continue
            names = [laid[0].stem.removesuffix(".predictions")]  # of the file or its record
        named = all(any(name in line for line in said) for name in names)
        if named and (same or laid[0].suffix == ".csv"):
            yield command, PASSED_OVER
        elif same and laid[0].suffix == ".csv":
            yield command, UNHARMED
        else:
            yield command, "NOT NAMED" if same else "OTHER OUTPUT"


def attacks(folder: Path, tries: int) -> Iterator[Tally]:
    """All tables; there is nothing random."""
    yield together(folder / "together")
    yield one_by_one(folder / "one")
