"""The two files of a measurement: its numbers as JSON, and its table as Markdown."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from lm2_jax.report import provenance
from lm2_jax.report.table import Table
from lm2_jax.runtime.files import write_text

MEASURED = "measured"  # key of the origin in the JSON


def write(folder: Path, name: str, facts: object, heading: str, table: Table, indent: int = 1
          ) -> list[Path]:
    """Writes NAME.json and NAME.md into a folder, which is created if it does not exist.

    Args:
      name: of both files, without a suffix.
      facts: what JSON can hold. If it is a dict, the JSON gets the `origin` too, as MEASURED, and
        the Markdown ends with it. The entries of a list have their own date and version.
      heading: the line above the table.
      indent: spaces of each level of the JSON file.

    Returns:
      The paths of both files.
    """
    paths, text = [folder / f"{name}.json", folder / f"{name}.md"], table.markdown()
    if isinstance(facts, dict):
        found = origin()
        facts = {MEASURED: found, **facts}
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        text += f"\nMeasured on {found['date']}, {found['host']}; {versions}.\n"
    write_text(paths[0], json.dumps(facts, indent=indent) + "\n")
    write_text(paths[1], f"{heading}\n\n{text}")
    return paths


def origin() -> dict:
    """The date, the host, the versions and the commit of a measurement that ends now.

    It asks no device, which may belong to another process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    return {"date": today(),
            "host": f"{_processor()}, {cores} cores",
            "versions": versions | {"Python": platform.python_version()},
            "commit": provenance.commit()}


def today() -> str:
    """The date in UTC, as "2026-01-31"."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
