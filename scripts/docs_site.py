"""Make the site of the documentation in ``build/docs``: the pages of ``docs/``, and those made from the code.

Run by ``make docs``. A link that leads nowhere, or any other warning of Sphinx, is an error.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from tunemesh.cli import app
from tunemesh.coordinator.service.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
SOURCE, SITE = ROOT / "build" / "docs-source", ROOT / "build" / "docs"
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)\s]+)\)")
"""Links to files of the repository that are no pages."""

VERSION = importlib.metadata.version("tunemesh")

SECTIONS = {
    "Begin": ["tutorial"],
    "How to": [
        "howto", "watching", "models", "deploy", "service", "operations", "security", "records",
        "troubleshooting",
    ],
    "Reference": ["commands", "python", "environment", "report", "metrics", "wire-format", "changelog"],
    "Explanation": [
        "architecture", "scheduling", "checking", "engines", "searches", "metaschedule", "onnx", "precision",
        "vector-math",
    ],
    "Measured": ["performance", "evaluation", "simulation", "benchmarks"],
}  # fmt: skip

CONFIGURATION = f'''
project = "Tunemesh"
version = release = "{VERSION}"
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
html_theme = "furo"
html_title = "Tunemesh {VERSION}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Options begin with two dashes.
smartquotes = False
# Output of commands has no language.
highlight_language = "none"
'''

STYLE = """
article table.docutils td, article table.docutils th { vertical-align: top; padding: 0.2em 0.5em; }
article table.docutils { font-size: 0.9em; }
@media (max-width: 46em) { article table.docutils { font-size: 0.8em; } }
"""
"""Tables have much text, and are read on phones as well."""


def main() -> int:
    """Returns the exit code."""
    prepare(SOURCE)
    shutil.rmtree(SITE, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(SOURCE),
        str(SITE),
    ]
    return subprocess.run(command, check=False).returncode


def prepare(folder: Path) -> None:
    """Write all pages as Sphinx reads them into ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    made = {"commands": commands(), "metrics": metrics(), "changelog": (ROOT / "CHANGELOG.md").read_text()}
    for name, text in made.items():
        (folder / f"{name}.md").write_text(text)
    for page in folder.glob("*.md"):
        text = OUTSIDE.sub(_named, page.read_text())
        text = re.sub(r'<a name="([^"]+)">(</a>)?', r"[]{#\1}", text)
        # Drawn where the page is read on a forge; Sphinx draws it with a script from elsewhere only.
        page.write_text(text.replace("```mermaid", "```text"))
    with (folder / "index.md").open("a") as index:
        for title, pages in SECTIONS.items():
            index.write(
                "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])
            )
    (folder / "conf.py").write_text(CONFIGURATION)
    (folder / "_static").mkdir()
    (folder / "_static" / "site.css").write_text(STYLE)


def _named(link: re.Match[str]) -> str:
    """The name of a file in place of a link to it."""
    text, file = link[1], link[2]
    return f"`{file}`" if text.strip("`") in file else f"{text} (`{file}`)"


def commands() -> str:
    """Every command of the command line with all its options and defaults."""
    lines = ["# Commands", "", "Made from the code: what `tunemesh COMMAND --help` says.", ""]
    for path, command in _commands(typer.main.get_command(app), ("tunemesh",)):
        lines += [f"## {' '.join(path)}", "", *(command.help or "").strip().splitlines(), ""]
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option"]
        if arguments or options:
            lines += ["| Option | Default | Meaning |", "|---|---|---|"]
        for each in arguments:
            lines.append(f"| `{str(each.name).upper()}` | | {_cell(getattr(each, 'help', ''))} |")
        for each in options:
            names = ", ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
            given = each.default not in (None, False, (), "") and not callable(each.default)
            usual = f"`{each.default}`" if given else ""
            said = each.show_default if isinstance(each.show_default, str) else usual
            lines.append(f"| {names} | {said} | {_cell(each.help)} |")
        lines.append("")
    return "\n".join(lines)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, each in inner.items():
        if not each.hidden:
            yield from _commands(each, (*path, name))


def metrics() -> str:
    """Every metric of the coordinator; a worker has those of steps and trials."""
    lines = ["# Metrics", "", "Made from the code. How to have them: `deploy/monitoring/README.md`.", ""]
    lines += ["| Metric | Type | Meaning |", "|---|---|---|"]
    for family in Metrics().registry.collect():
        lines.append(f"| `{family.name}` | {family.type} | {_cell(family.documentation)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
