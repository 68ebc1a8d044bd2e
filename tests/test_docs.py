"""The documentation says what is so: snippets run, commands parse, links and keys exist."""

import ast
import csv
import importlib
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import typer.main

import MMSA_ext
from MMSA_ext import cli, mmsa_files, registry
from MMSA_ext.config.files import extension_config
from tests.conftest import tiny_config

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (".", "docs/**", "results/**", "benchmarks", "studies")
    for path in ROOT.glob(f"{folder}/*.md")
)
SOURCES = {".py", ".json", ".sh", ".md"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text("utf-8")) if name == language]


def name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)[:60]


SNIPPETS = [(page, code) for page in PAGES for code in blocks(page, "python")]
COMMANDS = [
    line
    for page in PAGES
    if page.name != "tutorial.md"  # test_tutorial.py runs these
    for code in blocks(page, "bash")
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith("mmsa-ext ")
]


OWN_MODEL = ROOT / "docs" / "add_a_model.md"


def write_own_model(folder: Path) -> None:
    """The module and the configuration file of docs/add_a_model.md."""
    (folder / "my_model.py").write_text(blocks(OWN_MODEL, "python")[0])
    (folder / "audio_vision.json").write_text(blocks(OWN_MODEL, "json")[0])


@contextmanager
def forgetting(model: str) -> Iterator[None]:
    """Inside, `my_model` may be imported, which registers `model`."""
    path = sys.path.copy()
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.pop("my_model", None)
        registry.unregister_model(model)
        MMSA_ext.register()


def test_there_is_something_to_check():
    assert len(SNIPPETS) >= 5
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=name)
def test_snippets_import_what_exists(page, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "MMSA_ext":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(
                    f"{node.module}.{alias.name}"
                )


@pytest.mark.parametrize("line", COMMANDS, ids=name)
def test_commands_parse(line, tmp_path, monkeypatch):
    """Names of commands and options, and the number of arguments, without running anything."""
    _, command, *arguments = shlex.split(line, comments=True)
    monkeypatch.chdir(tmp_path)  # with the files that a command names
    monkeypatch.setenv("HOME", str(tmp_path))
    named = [Path(word).expanduser() for word in arguments]
    for path in (path for path in named if path.suffix in (".pkl", ".pth", ".mp4")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for folder in ("shards", "my-model"):
        Path(folder).mkdir(exist_ok=True)
    for path in (path for path in named if path.suffix == ".json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"mydata": {"label_range": [0, 10]}}')
    own = "--import" in arguments
    write_own_model(tmp_path)
    group = typer.main.get_command(cli.app)
    assert command in group.commands
    with (
        forgetting("audio_vision") if own else nullcontext(),
        group.commands[command].make_context(command, arguments) as context,
    ):
        cli.options.parse_overrides(context.params.get("overrides") or [])


def test_every_command_is_shown():
    shown = {shlex.split(line, comments=True)[1] for line in COMMANDS}
    assert shown >= set(typer.main.get_command(cli.app).commands)


def test_every_model_is_listed():
    section = (ROOT / "docs" / "index.md").read_text("utf-8").split("## Models")[1].split("##")[0]
    for model in [*registry.list_models(), *mmsa_files.models()]:
        assert re.search(rf"\b{model}\b", section), model


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading, and the site too (pymdownx.slugs)."""
    shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\s-]", "", shown).replace(" ", "-")


def anchors(page: Path) -> Counter[str]:
    text = FENCE.sub("", page.read_text("utf-8"))
    return Counter(slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", page.read_text("utf-8")):
        if "://" not in target:
            leads_to = page.parent / target if target else page
            assert leads_to.exists(), target
            if anchor:  # of headings that occur once: what a second one is called, sites differ in
                assert anchors(leads_to)[anchor] == 1, f"{target}#{anchor}"


def test_the_text_names_pages_that_exist():
    """In docstrings, messages, comments and remarks."""
    folders = ("MMSA_ext", "configs", "scripts", "studies", "benchmarks", "tests")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.*"))
    texts = [path.read_text("utf-8") for path in files if path.suffix in SOURCES]
    named = {page for text in texts for page in re.findall(r"docs/[\w/]+\.md", text)}
    assert len(named) >= 8
    assert [page for page in named if not (ROOT / page).is_file()] == []


class TestDeviations:
    """docs/models/dashfusion.md against the configuration classes and the shipped values."""

    page = ROOT / "docs" / "models" / "dashfusion.md"

    def table(self, heading: str) -> list[list[str]]:
        section = self.page.read_text("utf-8").split(f"## {heading}")[1].split("\n## ")[0]
        rows = [line.strip("|").split("|") for line in section.splitlines() if line[:1] == "|"]
        return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]

    @staticmethod
    def values(model: str, dataset: str | None = None) -> dict:
        """Defaults of the model's configuration and, with a data set, what is shipped for it."""
        fields = registry.get_model(model).config.model_fields
        shipped = extension_config("regression")[model]["datasetParams"].get(dataset, {})
        values = {key: field.default for key, field in fields.items()} | shipped
        reading = fields["reading"].default.model_dump() | dict(values.pop("reading"))
        return values | {f"reading.{key}": value for key, value in reading.items()}

    def test_differences_are_the_defaults(self):
        paper, released = self.values("dashfusion"), self.values("dashfusion_released")
        rows = self.table("Differences, key by key")
        assert {row[1]: (json.loads(row[2]), json.loads(row[3])) for row in rows} == {
            key: (paper[key], released[key]) for key in paper if paper[key] != released[key]
        }

    @pytest.mark.parametrize(("dataset", "layers"), [("mosi", 2), ("mosei", 4), ("sims", 2)])
    def test_what_is_the_same_is_the_same(self, dataset, layers):
        models = ("dashfusion", "dashfusion_released")
        paper, released = (self.values(model, dataset) for model in models)
        keys = [row[1] for row in self.table("The same in both") if row[1][0].isalpha()]
        assert len(keys) >= 10
        assert {key: paper[key] for key in keys} == {key: released[key] for key in keys}
        assert paper["encoder_layers"] == layers

    def test_ablations_name_keys(self):
        keys = re.findall(r"(\w+)=", " ".join(row[1] for row in self.table("Ablations")))
        assert len(keys) >= 7
        assert set(keys) <= set(self.values("dashfusion"))


def test_own_data_snippet_makes_a_sound_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = [c for c in blocks(ROOT / "docs" / "data.md", "python") if "write_features" in c]
    exec(code, {})
    assert MMSA_ext.data.features.check_features("mine.pkl", "mosi").ok
    assert "train" in capsys.readouterr().out


def test_a_model_is_added_by_its_page_in_one_file(tmp_path, feature_file, monkeypatch, typed):
    """The commands of the page, as they are typed, in a folder with what it says to write."""
    write_own_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for line in blocks(OWN_MODEL, "bash")[0].splitlines():
        for checkpoint in tmp_path.glob("MMSA/saved_models/*.pth"):  # after the first command
            line = line.replace("CHECKPOINT.pth", checkpoint.name)
        with forgetting("audio_vision"):
            ended, said = typed(line.replace("~", str(tmp_path)))
        assert ended == 0, said
        expected = {"run": "\naudio_vision ", "predict": "split,id,", "list": "An example"}
        assert expected[line.split()[1]] in said


def test_the_python_of_add_a_model_works_as_told(tmp_path, monkeypatch, feature_file, tiny_encoder):
    _, use, own_loss = blocks(OWN_MODEL, "python")
    write_own_model(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = MMSA_ext.MMSA_run

    def small_run(*args, **options):
        folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), tmp_path / "out")
        small = tiny_config("audio_vision", tiny_encoder)
        return run(
            *args,
            config=small,
            custom_feature=feature_file,
            gpu_ids="cpu",
            verbose_level=0,
            **folders,
            **options,
        )

    monkeypatch.setattr(MMSA_ext, "MMSA_run", small_run)
    scope: dict = {}
    with forgetting("audio_vision"):
        exec(use, scope)
        scope["results"].seeds[0].record_path.unlink()
        exec(own_loss, scope)
        monkeypatch.setattr(scope["my_model"].AudioVision, "training_step", scope["training_step"])
        exec(use, scope)
    (result,) = scope["results"].seeds
    assert result.record_path.is_file()


def test_results_readme_reads_records(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "results" / "README.md", "python")
    exec(code, {})
    assert (tmp_path / "seeds.csv").is_file()


def test_the_numbers_of_the_first_page_are_those_of_the_records():
    def shown(row: dict[str, str], scale: int, digits: int) -> str:
        mean, *ends = (row[key] for key in ("mean", "ci_low", "ci_high"))
        numbers = [f"{scale * float(value):.{digits}f}" for value in (mean, *ends) if mean]
        return f"{numbers[0]} [{', '.join(numbers[1:])}]" if numbers else "-"

    page = (ROOT / "README.md").read_text("utf-8")
    short = "results/mosi_text_audio/mosi_text_audio-mosi.csv"
    mosi, mmmo = "results/claims/mosi.csv", "results/claims/mmmo.csv"
    gates = "Self-MM + InfoEnh, random gates"
    for data, path, label, system in (
        ("MOSI", short, "text only, 7 epochs (control)", "Text only"),
        ("MOSI", short, "DashFusion, 7 epochs", "DashFusion"),
        ("MOSI", mosi, "text only, 20 epochs (control)", "Text only"),
        ("MOSI", mosi, "Self-MM", "Self-MM"),
        ("MOSI", mosi, "Self-MM + InfoEnh", "Self-MM + InfoEnh"),
        ("ICT-MMMO", mmmo, "text only (control)", "Text only"),
        ("ICT-MMMO", mmmo, "DashFusion", "DashFusion"),
        ("ICT-MMMO", mmmo, "Self-MM", "Self-MM"),
        ("ICT-MMMO", mmmo, "Self-MM + InfoEnh", "Self-MM + InfoEnh"),
        ("ICT-MMMO", mmmo, f"{gates} (control)", gates),
    ):
        with (ROOT / path).open(newline="") as table:
            of = {(row["row"], row["metric"]): row for row in csv.DictReader(table)}
        line = re.search(rf"^\| {data}, .*: {re.escape(label)} \|.*$", page, re.MULTILINE)[0]
        assert [cell.strip() for cell in line.split("|")[2:-1]] == [
            of[system, "MAE"]["n"],
            shown(of[system, "MAE"], 1, 3),
            shown(of[system, "Corr"], 1, 3),
            shown(of[system, "Non0_acc_2"], 100, 1),
            shown(of[system, "Mult_acc_7"], 100, 1),
        ]
