"""A page as one HTML file that needs nothing else: no network, no scripts, no other file.

Pages are readable on a phone, on paper, and in light or dark as the reader's system is set.
"""

from pathlib import Path
from typing import Any

import jinja2

from common.base.errors import printable
from common.render.sheet import data_uri

TEMPLATES = Path(__file__).with_name("templates")
CSS = Path(__file__).with_name("page.css")


def render(template: Path, **values: Any) -> str:
    """Fill in a template, which may use those in TEMPLATES; text among `values` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thumbnail"] = data_uri
    css = jinja2.utils.markupsafe.Markup(CSS.read_text("utf-8"))
    return environment.get_template(template.name).render(css=css, **values)


def _printable(value: Any) -> Any:
    """Make text printable; HTML stays as it is."""
    return printable(value) if type(value) is str else value
