"""What the documentation site has beside docs/: a hook of mkdocs (mkdocs.yml names it).

- The reference of the command line, of every configuration key and of the Python API is written
  from the code, as pages that exist while the site is built.
- Pages that stand beside what they describe (results/, benchmarks/) are shown too.
- A link to a file that the site does not have leads to the repository, where `repo_url` is given;
  without one, the file's path stands in place of the link.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

# Pages and pictures of the repository, by where they lie on the site.
ELSEWHERE = {
    "project/measured.md": "results/README.md",
    "project/papers.md": "results/paper/README.md",
    "project/matrix.md": "results/matrix/README.md",
    "project/infoenh_hosts.md": "results/infoenh_hosts/README.md",
    "images/infoenh_study.png": "results/infoenh_study/figure.png",
    "project/claims.md": "results/claims/README.md",
    "project/mosi_text_audio.md": "results/mosi_text_audio/README.md",
    "project/mosi_frozen_text.md": "results/mosi_frozen_text/README.md",
    "project/mmmo_audio_vision.md": "results/mmmo_audio_vision/README.md",
    "project/benchmarks.md": "benchmarks/README.md",
    "project/studies.md": "studies/README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
}
# Modules that the reference shows, by page; what serves the package alone is read in its code.
MODULES = {
    "models": ("Models and layers", [
        "models.contract", "registry", "models.dashfusion", "models.infoenh", "models.losses",
        "models.optimal_transport", "models.parts.attention", "models.parts.encoders",
        "models.parts.fusion", "models.parts.unimodal",
    ]),
    "data": ("Data", [
        "data.features", "data.feature_set", "data.convert", "data.synthetic", "data.corruption",
        "data.retrieval", "data.shards", "datasets", "metrics",
    ]),
    "video": ("Video", [
        "video.extraction", "video.contract", "video.extractors", "runs.video_scoring",
    ]),
    "training": ("Training", [
        "runs.options", "runs.tracking", "training.callbacks", "training.trainer",
        "training.checkpoint", "config.schema", "config.resolve", "config.described",
    ]),
    "results": ("Records, tables, figures", [
        "records.record", "records.store", "reporting.comparison", "reporting.comparison_table",
        "reporting.render", "reporting.statistics", "reporting.figures", "reporting.report",
    ]),
    "experiments": ("Experiments", ["experiments", "experiments.ray_engine"]),
    "explain": ("Looking into models", [
        "explain.trained_model", "explain.embeddings", "explain.attention_maps",
        "explain.attribution", "explain.cases", "explain.complexity", "explain.verification",
    ]),
}  # fmt: skip
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
CONFIGURATION = """# Configuration keys

Given by `--set KEY=VALUE`, `config={...}` or a file; a nested key has a dot. Values are those of a
run without overrides, by data set where they differ. `mmsa-ext config MODEL DATASET` says where
each is from, and has the keys of MMSA's own models.

## Every model"""
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for uri, path in ELSEWHERE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for uri, content in _reference():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links, which are right in the repository, right on the site."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    here = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    on_site = {path: uri for uri, path in ELSEWHERE.items()}
    on_site |= {f"docs/{f.src_uri}": f.src_uri for f in files} | {"README.md": "index.md"}

    def link(found: re.Match[str]) -> str:
        image, text, target, anchor = found.groups(default="")
        if "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if path in on_site:
            leads = posixpath.relpath(on_site[path], posixpath.dirname(page.file.src_uri) or ".")
            return f"{image}[{text}]({leads}{anchor})"
        if config.repo_url:
            return f"{image}[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return f"`{path}`" if text.strip("`/") in path else f"{text} (`{path}`)"

    parts = FENCE.split(markdown)
    code = [*FENCE.findall(markdown), ""]
    return "".join(LINK.sub(link, part) + block for part, block in zip(parts, code, strict=True))


def _reference() -> Iterator[tuple[str, str]]:
    yield "reference/commands.md", _commands()
    yield "reference/configuration.md", _configuration()
    yield "reference/shims.md", _shims()
    yield "reference/api.md", _api()
    for uri, (title, modules) in MODULES.items():
        blocks = "\n\n".join(f"::: MMSA_ext.{module}" for module in modules)
        yield f"reference/{uri}.md", f"# {title}\n\n{blocks}\n"


def _commands() -> str:
    import typer.main
    from typer.cli import get_docs_for_click

    from MMSA_ext.cli import app

    group = typer.main.get_command(app)
    waiting: list[Any] = [group]
    while waiting:
        for command in getattr(waiting.pop(), "commands", {}).values():
            command.short_help = (command.help or "").split("\n")[0]  # whole, not cut at a width
            waiting.append(command)
    context = typer.Context(group, info_name="mmsa-ext")
    return get_docs_for_click(obj=group, ctx=context, name="mmsa-ext", title="Command line")


def _configuration() -> str:
    """Every key of the models of this package; those of MMSA's own are in MMSA's files."""
    from MMSA_ext.config.described import described
    from MMSA_ext.config.schema import MMSAKeys
    from MMSA_ext.registry import get_model, list_models

    shared = MMSAKeys.model_fields
    meaning = {key.key: key.meaning for key in described("dashfusion", "mosi")}
    rows = [f"| `{key}` | {_cell(meaning[key])} |" for key in shared if meaning.get(key)]
    parts = [CONFIGURATION, "\n".join(["| Key | Meaning |", "|---|---|", *rows])]
    for name in list_models():
        values: dict[str, dict[str, str]] = {}
        for dataset in ("mosi", "mosei", "sims"):
            for key in described(name, dataset):
                if key.key.split(".")[0] not in shared:
                    value = json.dumps(key.value, ensure_ascii=False, default=str)
                    values.setdefault(key.key, {})[dataset] = f"`{value}`"
                    meaning[key.key] = key.meaning
        rows = [f"| `{k}` | {_by_dataset(v)} | {_cell(meaning[k])} |" for k, v in values.items()]
        table = "\n".join(["| Key | Value | Meaning |", "|---|---|---|", *rows])
        parts += [f"## `{name}`", get_model(name).paper, table]
    return "\n\n".join(parts) + "\n"


def _by_dataset(values: dict[str, str]) -> str:
    if len(set(values.values())) == 1:
        return _cell(next(iter(values.values())))
    return _cell(", ".join(f"{dataset} {value}" for dataset, value in values.items()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shims() -> str:
    from MMSA_ext.mmsa_bridge.shims import SHIMS

    rows = [f"| `{shim.name}` | {_cell(shim.reason)} |" for shim in SHIMS]
    head = (
        "# Repairs of MMSA\n\nEach changes one name of MMSA 2.2.1 while MMSA_ext is registered.\n\n"
    )
    return head + "\n".join(["| Shim | Without it |", "|---|---|", *rows]) + "\n"


def _api() -> str:
    import MMSA_ext

    modules = ("models", "optimal_transport")  # on a page of their own
    names = [name for name in MMSA_ext.__all__ if name[0] != "_" and name not in modules]
    head = "# Python\n\nWhat is imported from `MMSA_ext` itself.\n\n"
    return head + "\n\n".join(f"::: MMSA_ext.{name}" for name in names) + "\n"
