"""Pages of one file, which need no network: what all of them have in common, and the card of an exported model."""

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

PACKAGE = Path(__file__).parents[1]
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def render(template: str, **values: object) -> str:
    """A page out of a template that lies in this package, e.g. "analysis/page.html"; in HTML values are escaped."""
    return _environment().get_template(template).render(values)


@cache  # with which it keeps its templates: a run of a multirun need not compile them again
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE),
        autoescape=jinja2.select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def embedded(image: Path) -> str:
    """A picture as the address of itself."""
    return f"data:{TYPES[image.suffix]};base64,{base64.b64encode(image.read_bytes()).decode()}"
