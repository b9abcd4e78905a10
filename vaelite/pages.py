"""Copies of executed notebooks that one can hand on: no widget state, no private folders, no request to the network."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import latex2mathml.converter
import nbformat
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
EXPLORER_NOTE = "[An explorer is here. Open this notebook in JupyterLab (make lab) and run it to move the sliders.]"


def clean(notebook: nbformat.NotebookNode, cwd: Path) -> None:
    """Strip in place what a copy must not carry: widget state (about 5 MB for each FigureWidget) and private paths."""
    notebook.metadata.pop("widgets", None)
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET_VIEW, None) is not None and set(data) <= {"text/plain"}:
                data["text/plain"] = EXPLORER_NOTE
    for part in (notebook.metadata, *notebook.cells):
        _without_private_paths(part, {str(cwd): ".", str(Path.home()): "~"})


def _without_private_paths(node: dict | list, names: dict[str, str]) -> None:
    """Replace folder names in every text below `node`.  A letter, digit, '+', '/' or '=' before one means base64."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            _without_private_paths(value, names)
        elif isinstance(value, str):
            for folder, short in names.items():
                value = re.sub(rf"(?<![\w+/=]){re.escape(folder)}(?=[/\\]|\b)", lambda _: short, value)
            node[key] = value


def static_page(notebook: nbformat.NotebookNode, title: str) -> str:
    """The notebook as one HTML file that holds everything it shows."""
    html, _ = StaticPage().from_notebook_node(notebook, {"metadata": {"name": title}})
    return html


class MathMLRenderer(IPythonRenderer):
    """Writes formulas as MathML, which browsers draw themselves: MathJax would have to come from the network."""

    def inline_math(self, body: str) -> str:
        return self._formula(body, "inline")

    def block_math(self, body: str) -> str:
        return self._formula(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return self._formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def _formula(self, latex: str, display: str) -> str:
        try:
            return latex2mathml.converter.convert(latex, display=display)
        except Exception:                                    # a formula it cannot read is shown as its author wrote it
            return f"<code>{self.escape_html(latex)}</code>"


class StaticPage(HTMLExporter):
    """nbconvert's page without its scripts: it asks the network for nothing and looks the same offline."""

    raw_template = """{%- extends 'lab/index.html.j2' -%}
        {%- block html_head_js -%}{%- endblock -%}
        {%- block html_head_js_mathjax -%}{%- endblock -%}
        {%- block html_head_js_mermaidjs -%}{%- endblock -%}"""

    @jinja2.pass_context
    def markdown2html(self, context, source):
        return MarkdownWithMath(renderer=MathMLRenderer(escape=False)).render(source)
