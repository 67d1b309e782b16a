"""One table of texts, written as Markdown or printed by rich."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich import table as rich_table
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """Rows of texts, in sections that the terminal separates.

    Attributes:
      header: a title for each column; "\n" breaks it in the terminal. Empty for no header there.
      text_columns: so many first columns are text, aligned left; the others are numbers.
      note: stands below the table; "" for none.
    """

    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    text_columns: int = 1
    note: str = ""

    def markdown(self) -> str:
        """The table as GitHub's Markdown."""
        rule = [":---" if i < self.text_columns else "---:" for i in range(len(self.header))]
        rows = [_escaped(row) for section in self.sections for row in section]
        lines = [f"| {' | '.join(row)} |\n" for row in (_escaped(self.header), rule, *rows)]
        return "".join(lines) + (f"\n{self.note}\n" if self.note else "")

    def terminal(self, title: str = "") -> rich_table.Table:
        """The table for a rich console; no text in it is read as markup."""
        table = rich_table.Table(
            title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD,
            show_header=bool(self.header), show_edge=False, pad_edge=False, collapse_padding=True,
            caption=Text(self.note) if self.note else None, caption_justify="left")
        for i in range(self.num_columns):
            table.add_column(Text(self.header[i]) if self.header else "", overflow="fold",
                             justify="left" if i < self.text_columns else "right")
        for section in self.sections:
            table.add_section()
            for row in section:
                table.add_row(*map(Text, row))
        return table

    @property
    def num_columns(self) -> int:
        return len(self.header) or len(self.sections[0][0])

    @property
    def width(self) -> int:
        """Characters of a line in the terminal, if no cell is folded."""
        rows = [self.header, *(row for section in self.sections for row in section)]
        return sum(2 + max(len(line) for row in rows for line in row[i].split("\n"))
                   for i in range(self.num_columns))

    def fitting(self, width: int, *less_important: str) -> "Table":
        """The same table without columns of these titles, the first named first, until a line of
        the terminal holds it."""
        table = self
        for title in less_important:
            if table.width <= width:
                break
            table = table.columns(i for i, name in enumerate(table.header) if name != title)
        return table

    def columns(self, indices: Iterable[int]) -> "Table":
        """The same table with these columns only."""
        indices = list(indices)
        return Table([self.header[i] for i in indices],
                     [[[row[i] for i in indices] for row in section] for section in self.sections],
                     sum(i < self.text_columns for i in indices), self.note)


def percent(rate: float | None) -> str:
    """0.123 as "12.3", 1.0 as "100"; "-" of None."""
    return "-" if rate is None else f"{100 * rate:.1f}".replace("100.0", "100")


def spread(rates: Sequence[float]) -> str:
    """The mean in per cent, with the lowest and the highest if they differ; "-" of none."""
    if not rates:
        return "-"
    mean, low, high = map(percent, (fmean(rates), min(rates), max(rates)))
    return mean if low == high else f"{mean} ({low}-{high})"


def count_range(counts: Sequence[int]) -> str:
    """"100", or "50 to 100" if they differ."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _escaped(texts: Sequence[str]) -> list[str]:
    return [text.replace("|", r"\|").replace("\n", " ") for text in texts]
