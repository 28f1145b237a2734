"""The site that `make docs` builds from README.md and docs/, with Sphinx and MyST.

The root of the sources is the checkout, so that a link between two pages is the same here and on
GitHub. A link to a file that is no page leads to a page with its text, at the line that defines the
name of the link. Nothing is fetched: formulas are drawn by KaTeX, whose files are in _static/katex
(npm package katex 0.19.1, minified files and woff2 fonts).
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

# The pages in the order of the sidebar; those below a page follow it there.
PAGES = {
    "docs/index": {
        "Learn": ["README", "docs/course/index", "docs/tales"],
        "Use": [
            *("docs/start", "docs/recipes", "docs/settings", "docs/troubleshooting", "docs/mistakes", "docs/finetune"),
            *(
                "docs/chat",
                "docs/preferences",
                "docs/serving",
                "docs/explain",
                "docs/sweeps",
                "docs/cluster",
                "docs/openwebtext",
            ),
            *("docs/ecosystem", "docs/ratings", "docs/api", "docs/reference"),
        ],
        "Contribute": [
            *("CONTRIBUTING", "docs/architecture", "docs/extend", "docs/reliability", "docs/chaos", "docs/results"),
            *("docs/log", "CHANGELOG"),
        ],
    }
}
listed = {name for names in PAGES["docs/index"].values() for name in names}
PAGES["docs/index"]["Use"] += sorted(
    {f"docs/{path.stem}" for path in Path(__file__).parent.glob("*.md")} - listed - {"docs/index"}
)
PAGES["docs/course/index"] = {
    "": [f"docs/course/{path.stem}" for path in sorted(Path(__file__).parent.glob("course/[0-9]*.md"))]
}
# docs/reference.md lists the modules of the API reference.
MODULES = re.findall(
    r"^- \[`([\w.]+)`\]", (Path(__file__).parent / "reference.md").read_text(encoding="utf-8"), re.MULTILINE
)
PAGES["docs/reference"] = {"": [f"docs/reference/{name}" for name in MODULES]}

project = "LLMfromScratch"
copyright = "the LLMfromScratch contributors, MIT licence"
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/course/*.md",
    "docs/reference/*.rst",
]
exclude_patterns = [".*", "build", "data", "outputs", "src", "tests", "node_modules"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.napoleon"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
myst_dmath_allow_digits = False
highlight_language = "none"

# Types of other libraries and of modules that the reference leaves out have no page here.
nitpicky = True
nitpick_ignore_regex = [("py:.*", rf"(?!({'|'.join(map(re.escape, MODULES))})\.\w+$).*")]
default_role = "code"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_math_renderer = "katex"
html_theme = "furo"
html_title = "LLMfromScratch"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["katex/katex.min.css", "site.css"]
html_js_files = [("katex/katex.min.js", {"defer": "defer"}), ("site.js", {"defer": "defer"})]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {"navigation_with_keys": False}


class LinksToFiles(SphinxTransform):
    """Makes links to files of the checkout lead to pages with their text."""

    default_priority = 800

    def apply(self, **options: Any) -> None:
        up = "../" * self.env.docname.count("/")
        for node in list(self.document.findall(addnodes.download_reference)):
            path = ((ROOT / self.env.docname).parent / node["reftarget"]).resolve().relative_to(ROOT)
            if self.env.docname == "docs/reference" and node.astext() in MODULES:
                uri = f"reference/{node.astext()}.html"
            else:
                uri = up + page_of_file(path, node.astext())
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


linked_files: set[str] = set()


def page_of_file(path: Path, name: str) -> str:
    """Returns the address of a file's page, from the site's root, at the line that defines `name`."""
    linked_files.add(path.as_posix())
    line = line_of(ROOT / path, name)
    return f"source/{path.as_posix()}.html" + (f"#L-{line}" if line else "")


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Returns the link of an entry of the API reference to its source."""
    if not info["module"]:
        return None
    path = Path("src", *info["module"].split("."))
    path = path.with_suffix(".py") if (ROOT / path).with_suffix(".py").is_file() else path / "__init__.py"
    return f"../../{page_of_file(path, info['fullname'])}"


def line_of(path: Path, name: str) -> int | None:
    """Returns the line of a Python file that defines `name`, also as `Class.method`."""
    if path.suffix != ".py":
        return None
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    line = None
    for part in name.split("."):
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if getattr(node, "name", None) == part or any(getattr(one, "id", None) == part for one in targets):
                line, body = node.lineno, getattr(node, "body", [])
                break
        else:
            return None
    return line


def pages_of_files(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields a page for each file that a page links to."""
    formatter = HtmlFormatter(linespans="L")
    for name in sorted(linked_files):
        try:
            lexer = get_lexer_for_filename(name)
        except ClassNotFound:
            lexer = TextLexer()
        text = highlight((ROOT / name).read_text(encoding="utf-8"), lexer, formatter)
        yield f"source/{name}", {"title": name, "body": f"<h1>{name}</h1>{text}", "parents": []}, "page.html"


def docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turns code in single backticks, as docstrings here have it, into reStructuredText's literals."""
    text = "\n".join(lines)
    parts = re.split(r"(`+[^`]+`+)", text)
    for place, part in enumerate(parts):
        parts[place] = f"``{part.strip('`')}``" if place % 2 else re.sub(r"([*|])", r"\\\1", part)
    lines[:] = "".join(parts).split("\n")


def formula(self: Any, node: nodes.Element) -> None:
    """Writes a formula as text, which site.js hands to KaTeX."""
    tag = "span" if isinstance(node, nodes.math) else "div"
    self.body.append(f'<{tag} class="math">{self.encode(node.astext())}</{tag}>')
    raise nodes.SkipNode


def with_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Adds the pages below a page to it, where GitHub needs no list of them."""
    for caption, names in PAGES.get(name, {}).items():
        listed = "\n".join("The first page </README>" if one == "README" else f"/{one}" for one in names)
        title = f":caption: {caption}\n" if caption else ""
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n{title}\n{listed}\n```\n"


def write_reference(app: Sphinx) -> None:
    """Writes a page for each module of the API reference."""
    folder = ROOT / "docs" / "reference"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.rst"):
        old.unlink()
    for name in MODULES:
        page = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n"
        (folder / f"{name}.rst").write_text(page, encoding="utf-8")


def with_levels(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Gives the captions of the sidebar, which Sphinx makes headings, a level."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_transform(LinksToFiles)
    app.add_html_math_renderer("katex", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("builder-inited", write_reference, priority=100)
    app.connect("source-read", with_pages)
    app.connect("html-collect-pages", pages_of_files)
    app.connect("html-page-context", with_levels, priority=900)  # after furo's own
    app.connect("autodoc-process-docstring", docstring)
    return {"parallel_read_safe": False}
