"""Pages of one file, which need no network: what those of a run and of a comparison have in common."""

import base64
from pathlib import Path

PACKAGE = Path(__file__).parent
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def render(template: str, **values: object) -> str:
    """A page out of a template that lies in this package, e.g. "study/page.html"; values are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(values)


def embedded(image: Path) -> str:
    """A picture as the address of itself."""
    return f"data:{TYPES[image.suffix]};base64,{base64.b64encode(image.read_bytes()).decode()}"
