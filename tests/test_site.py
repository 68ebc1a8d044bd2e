"""The documentation site, built strictly: a link or an anchor that leads nowhere is an error."""

import re
from html import unescape
from pathlib import Path

import pytest
import typer.main
from mkdocs.commands.build import build
from mkdocs.config import load_config

import MMSA_ext
from MMSA_ext import cli, registry
from MMSA_ext.config.schema import MMSAKeys
from tests.test_docs import ROOT

pytestmark = pytest.mark.slow  # minutes together

# What a browser fetches without being asked; links that a reader follows are not among it.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]* src=\"?([^\" >]+)|<link[^>]* href=\"?([^\" >]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # `strict`: raises at the first warning
    return folder


def text(page: Path) -> str:
    return page.read_text("utf-8")


def test_every_page_is_on_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    assert "reference/commands.html" in text(site / "index.html")  # the navigation


def test_no_page_asks_another_server(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 30
    for page in pages:
        fetched = {found for pair in FETCHED.findall(text(page)) for found in pair if found}
        assert fetched
        assert [url for url in fetched if "//" in url] == []
    assert [s for s in site.glob("*.css") if "//" in re.sub(r"/\*.*?\*/", "", text(s))] == []


def test_the_reference_has_every_command(site):
    page = text(site / "reference" / "commands.html")
    for name, command in typer.main.get_command(cli.app).commands.items():
        for inner in getattr(command, "commands", [""]):
            assert f'id="mmsa-ext-{name}{inner and f"-{inner}"}"' in page
        named = [option for parameter in command.params for option in parameter.opts]
        for option in (option for option in named if option.startswith("-")):
            assert re.search(rf"{option}\b", page), option


def test_the_reference_has_every_key(site):
    page = unescape(text(site / "reference" / "configuration.html"))
    for model in registry.list_models():
        section = page.split(f'id="{model}"')[1].split("<h2")[0]
        for key in (
            registry.get_model(model).config.model_fields.keys() - MMSAKeys.model_fields.keys()
        ):
            assert f"<code>{key}" in section, (model, key)


def test_the_reference_has_every_public_name(site):
    page = text(site / "reference" / "api.html")
    names = {name for name in MMSA_ext.__all__ if not name.startswith("__")}
    for name in names - {"models", "optimal_transport"}:  # modules, on a page of their own
        assert f'id="MMSA_ext.{name}"' in page, name


def test_links_out_of_the_pages_folder_are_mended(site):
    page = text(site / "project" / "benchmarks.html")
    assert 'href="../training.html#' in page
    assert "blob/main" not in page  # the project names no repository
    assert "<code>configs/experiments/published" in text(site / "experiments.html")
