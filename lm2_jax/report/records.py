"""The two files of a measurement: its numbers as JSON, and its table as Markdown."""

import json
from pathlib import Path

from lm2_jax.report.table import Table
from lm2_jax.runtime.files import write_text


def write(folder: Path, name: str, facts: object, heading: str, table: Table, indent: int = 1
          ) -> list[Path]:
    """Writes NAME.json and NAME.md into a folder, which is created if it does not exist.

    Args:
      name: of both files, without a suffix.
      facts: what JSON can hold.
      heading: the line above the table.
      indent: spaces of each level of the JSON file.

    Returns:
      The paths of both files.
    """
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    write_text(paths[0], json.dumps(facts, indent=indent) + "\n")
    write_text(paths[1], f"{heading}\n\n{table.markdown()}")
    return paths
