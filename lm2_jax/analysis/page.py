"""The page of `lm2 analyze`: one HTML file that holds its pictures, and their numbers as JSON."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lm2_jax.runtime.files import write_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
table { border-collapse: collapse } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top }
td:first-child { color: #666; white-space: nowrap } img { max-width: 100%; height: auto }
.look { margin: .3rem 0 1rem } .left-out { color: #666; font-style: italic }
"""


@dataclass(frozen=True)
class Panel:
    """One part of the page.

    Attributes:
      name: of its picture and of its numbers.
      title: its heading.
      look: what to look for, one sentence.
      picture: the PNG; None if the panel is left out.
      numbers: what is drawn: numbers, arrays, texts, and lists and dicts of them.
      reason: why it is left out.
    """

    name: str
    title: str
    look: str
    picture: Path | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def write(folder: Path, title: str, facts: Mapping[str, str], panels: Sequence[Panel]
          ) -> list[Path]:
    """Writes index.html and analysis.json into the folder of the pictures; returns both paths."""
    parts = [f"<h1>{html.escape(title)}</h1>", "<table>",
             *(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
               for name, value in facts.items()), "</table>"]
    for number, panel in enumerate(panels, 1):
        parts.append(f'<h2 id="{panel.name}">{number}. {html.escape(panel.title)}</h2>')
        if panel.picture is None:
            parts.append(f'<p class="left-out">Left out: {html.escape(panel.reason)}.</p>')
            continue
        data = base64.b64encode(panel.picture.read_bytes()).decode()
        parts += [f'<p class="look"><b>What to look for:</b> {html.escape(panel.look)}</p>',
                  f'<a href="{panel.picture.name}"><img alt="{html.escape(panel.title)}" '
                  f'src="data:image/png;base64,{data}"></a>']
    parts.append('<p>The numbers behind the pictures are in <a href="analysis.json">analysis.json'
                 "</a>.</p>")
    page = ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(parts) + "\n</body></html>\n")
    numbers = {"about": dict(facts)} | {
        panel.name: _plain(panel.numbers) if panel.picture else {"left_out": panel.reason}
        for panel in panels}
    written = []
    for name, text in (("index.html", page), ("analysis.json", json.dumps(numbers, indent=1))):
        write_text(folder / name, text + "\n" * (not text.endswith("\n")))
        written.append(folder / name)
    return written


def _plain(value: Any) -> Any:
    """Arrays as lists, numbers with four digits, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value
