"""The package as it is installed: from a wheel, editable, and as a bare source tree."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import MMSA_ext

ROOT = Path(__file__).parents[1]
CONFIGURATIONS = sorted(
    path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.*") if path.is_file()
)

# Prints where the package and its configuration files were found.
PROBE = """
import json, MMSA_ext
from MMSA_ext.config.files import extension_config
from MMSA_ext.paths import config_folder
print(json.dumps({
    "package": MMSA_ext.__file__,
    "configs": str(config_folder()),
    "regression": extension_config("regression"),
    "tune": extension_config("tune"),
}))
"""


def not_released(folder: str, names: list[str]) -> list[str]:
    """What a folder may hold beside what is released."""
    kept = {".pre-commit-config.yaml", ".dockerignore"}
    here = {name for name in names if name[:1] == "." and name not in kept}
    here |= {"build", "dist", "models", "out", "results"}
    made = {"__pycache__", *(name for name in names if name.endswith(".egg-info"))}
    return sorted(made | here if Path(folder) == ROOT else made)


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory) -> Path:
    """A copy of what is installed from, so that building leaves no traces in the repository."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "tree", ignore=not_released)


@pytest.fixture(scope="module")
def built(source_tree, tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built of it, as a package index has them."""
    folder = tmp_path_factory.mktemp("dist")
    code = (
        "import os, sys, tarfile, setuptools.build_meta as build\n"
        "folder = sys.argv[1]\n"
        "sources = os.path.join(folder, build.build_sdist(folder))\n"
        "tarfile.open(sources).extractall(folder, filter='data')\n"
        "os.chdir(sources.removesuffix('.tar.gz'))\n"
        "build.build_wheel(folder)"
    )
    said = run([sys.executable, "-c", code, str(folder)], cwd=source_tree)
    assert "would be ignored" not in said
    (sources,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sources, wheel


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    with zipfile.ZipFile(built[1]) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


def run(command: list[str], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(code: str, *search_path: Path, cwd: Path) -> dict:
    """Run without `site`: this environment's packages come last, its .pth files do not count."""
    installed = dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
    path = os.pathsep.join([*map(str, search_path), *installed])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    return json.loads(run([sys.executable, "-S", "-c", code], cwd=cwd, env=environment))


def assert_shipped(found: dict, package: Path, configs: Path) -> None:
    assert Path(found["package"]) == package / "__init__.py"
    assert Path(found["configs"]) == configs
    for kind in ("regression", "tune"):
        shipped = json.loads((ROOT / f"configs/config_{kind}.json").read_text())
        assert found[kind].keys() >= shipped.keys()
        for name, entry in shipped.items():
            if "commonParams" in entry:
                for params in found[kind][name]["datasetParams"].values():
                    del params["seq_lens"]  # one of three, the same for every model
                assert found[kind][name] == entry
            else:  # search spaces; those of variants of MMSA's models add to what MMSA's file says
                space = {k: v for k, v in entry["debugParams"].items() if k != "d_paras"}
                assert found[kind][name]["debugParams"].items() >= space.items()


def test_wheel_finds_its_configuration(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    package = tmp_path / "site" / "MMSA_ext"
    assert_shipped(probe(PROBE, tmp_path / "site", cwd=tmp_path), package, package / "configs")


@pytest.mark.slow
def test_editable_install_finds_its_configuration(source_tree, tmp_path):
    if (Path(sysconfig.get_paths()["purelib"]) / "MMSA_ext").is_dir():
        pytest.skip("a regular install of MMSA_ext comes before any editable one")
    build = "import setuptools.build_meta as b, sys; b.build_editable(sys.argv[1])"
    run([sys.executable, "-c", build, str(tmp_path)], cwd=source_tree)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "site")
    activate = f"import site; site.addsitedir({str(tmp_path / 'site')!r})\n"
    found = probe(activate + PROBE, tmp_path / "site", cwd=tmp_path)
    assert_shipped(found, source_tree / "MMSA_ext", source_tree / "configs")


@pytest.mark.slow
def test_bare_source_tree_finds_its_configuration(source_tree, tmp_path):
    found = probe(PROBE, source_tree, cwd=tmp_path)
    assert_shipped(found, source_tree / "MMSA_ext", source_tree / "configs")


def test_wheel_holds_every_configuration_file_unchanged(wheel):
    assert CONFIGURATIONS
    for path in CONFIGURATIONS:
        assert wheel.read(f"MMSA_ext/{path.as_posix()}") == (ROOT / path).read_bytes()


def test_wheel_holds_the_package_and_nothing_else(wheel):
    package = {path.relative_to(ROOT).as_posix() for path in files_of(ROOT / "MMSA_ext")}
    assert {"MMSA_ext/py.typed", "MMSA_ext/reporting/templates/report.css"} <= package
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == package | {f"MMSA_ext/{path.as_posix()}" for path in CONFIGURATIONS}


RELEASED = {"MMSA_ext", "benchmarks", "configs", "docs", "notebooks", "scripts", "studies", "tests"}


def test_sources_hold_what_is_tested_built_and_read(built):
    with tarfile.open(built[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    below = {name for name in names if name.partition("/")[0] in RELEASED}
    files = (path for folder in RELEASED for path in files_of(ROOT / folder))
    assert below == {path.relative_to(ROOT).as_posix() for path in files}
    made = {name for name in names if ".egg-info" in name} | {"PKG-INFO", "setup.cfg"}
    suffixes = {".md", ".toml", ".txt", ".yml", ".cff", ".py", ".in"}
    beside = {path.name for path in ROOT.iterdir() if path.suffix in suffixes}
    beside |= {"LICENSE", "Dockerfile", ".dockerignore"}
    assert {"pyproject.toml", "constraints.txt", "README.md", "setup.py"} <= beside
    assert names - below - made == beside - {".pre-commit-config.yaml"}


def files_of(folder):
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def test_the_index_shows_no_link_that_leads_nowhere(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.startswith("# MMSA_ext\n")
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    assert all("".join(target).startswith("https://") for target in targets), targets
    assert "Tutorial" in text


def test_metadata(wheel, metadata):
    assert metadata["Version"] == MMSA_ext.__version__
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert {"offline", "dev", "ray"} <= set(metadata.get_all("Provides-Extra"))
    assert "MMSA==2.2.1" in metadata.get_all("Requires-Dist")
    (entry_points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "mmsa-ext = MMSA_ext.cli:main" in wheel.read(entry_points).decode()


def test_every_import_is_declared(metadata):
    """What the package imports from outside the standard library stands in its requirements.

    What an extra brings is imported where it is used, and not with the module; but for the page,
    whose modules the command imports once its extra is there.
    """
    page = [ROOT / "MMSA_ext" / "page" / name for name in ("layout.py", "server.py")]
    at_once, anywhere = set(), set()
    for path in (ROOT / "MMSA_ext").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        at_once |= set() if path in page else imported_by(tree.body)
        anywhere |= imported_by(ast.walk(tree))
    lines = metadata.get_all("Requires-Dist")
    assert at_once <= declared_by(line for line in lines if "extra ==" not in line)
    assert anywhere <= declared_by(line for line in lines if 'extra == "dev"' not in line)


def imported_by(nodes):
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    names -= sys.stdlib_module_names | {"MMSA_ext"}
    distributions = {"sklearn": "scikit-learn"}
    return {distributions.get(name, name).lower().replace("_", "-") for name in names}


def declared_by(lines):
    return {re.match(r"[\w.-]+", line).group().lower().replace("_", "-") for line in lines}


def test_constraints_pin_every_direct_requirement(metadata):
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    names = {name.lower().replace("_", "-") for name in pinned}
    exact = re.compile(r"[\d.]+((a|b|rc)\d+)?(\.post\d+)?")
    assert all(exact.fullmatch(version) for version in pinned.values()), "local versions"
    for line in metadata.get_all("Requires-Dist"):
        name = re.match(r"[\w.-]+", line).group().lower().replace("_", "-")
        assert name in names | {"mmsa-ext"} or 'extra == "ray"' in line


def test_the_lowest_versions_are_those_of_the_requirements(metadata):
    """What scripts/lowest_versions.py runs tests with is what a user's pip is told."""
    path = ROOT / "scripts" / "lowest_versions.py"
    spec = importlib.util.spec_from_file_location("lowest_versions", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    bound = re.compile(r"([\w.-]+)>=([\w.]+)(?:; extra == \"(.*)\")?$")
    found = [bound.match(line) for line in metadata.get_all("Requires-Dist")]
    tested = (None, *script.EXTRAS)
    stated = {m[1]: m[2] for m in found if m and m[3] in tested}
    assert script.lowest(script.requirements()) == stated
    assert {"typer", "pydantic", "ray", "torch"} <= stated.keys()
    lines = script.constraints().splitlines()
    assert {line.split("==")[0] for line in lines} == stated.keys()
    assert f"torch=={stated['torch']}" not in lines  # the one of constraints.txt


def test_citation_names_this_version():
    assert f"version: {MMSA_ext.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("script", [*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"], ids=str)
def test_scripts_parse(script):
    run(["bash", "-n", str(script)])


def test_commits_are_checked_as_continuous_integration_checks():
    (hooks,) = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks == "bash scripts/check.sh"
    assert f"\n{hooks}\n" in (ROOT / "scripts" / "test.sh").read_text()
    assert "exec bash scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


class TestContainer:
    """The Dockerfile, read: it is not built here."""

    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()

    def test_what_is_copied_is_there_and_not_ignored(self):
        copied = [word for line in self.lines if line[:5] == "COPY " for word in line.split()[1:-1]]
        allowed = (ROOT / ".dockerignore").read_text().splitlines()
        assert {"MMSA_ext", "configs", "pyproject.toml", "constraints.txt"} <= set(copied)
        assert sorted(f"!{name}" for name in copied) == [x for x in allowed if x[:1] == "!"]
        assert all((ROOT / name).exists() for name in copied)

    def test_it_installs_what_there_is_and_runs_as_nobody_in_particular(self, metadata):
        extras = re.findall(r'"\.\[(\w+)\]"', "\n".join(self.lines))
        assert extras == ["offline"]
        assert set(extras) <= set(metadata.get_all("Provides-Extra"))
        users = [line.split()[1] for line in self.lines if line.startswith("USER ")]
        assert users == ["1000"]
        assert 'ENTRYPOINT ["mmsa-ext"]' in self.lines
