"""Pages of one file, which require no network, and tables in Markdown."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def render(template: str, **values: object) -> str:
    """A page from a file in templates/; in HTML, values are escaped."""
    return _environment().get_template(template).render(values, made=f"{datetime.now():%Y-%m-%d %H:%M}")


@cache  # it keeps the compiled templates for the next run of a multirun
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=jinja2.select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def embedded(image: Path) -> str:
    """A picture as a data URL."""
    return f"data:{TYPES[image.suffix]};base64,{base64.b64encode(image.read_bytes()).decode()}"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows, whose keys are the columns."""
    cells = [list(rows[0]), ["---"] * len(rows[0])]
    cells += [[text.replace("|", "\\|") for text in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
