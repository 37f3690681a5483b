"""The table in docs/clients.md, which `make test-clients` writes."""

from library import LIBRARIES
from stack import REPO

PAGE = REPO / "docs" / "clients.md"
BEGIN, END = "<!-- the table: make test-clients -->\n", "<!-- the end of the table -->\n"
COLUMNS = [
    "library",
    "language",
    "version",
    "extensions offered",
    "fragments",
    "pings",
    "answers a ping",
    "subprotocol unanswered",
    "1012, 1013",
    "note",
]


class Table:
    def __init__(self):
        self._rows = {}  # {library: {column: text}}

    def record(self, library, column, text):
        """What was seen of a library."""
        self._rows.setdefault(library, {})[column] = text

    @staticmethod
    def read():
        """The rows of the page, {column: text}."""
        lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()[2:]
        cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        return [dict(zip(COLUMNS, row, strict=True)) for row in cells]

    def write(self):
        """In place of those libraries' rows; the others stay as they are."""
        new = {library.name: self._row(library) for library in self._rows}
        complete = {name: row for name, row in new.items() if list(row) == COLUMNS}
        if complete:
            rows = {row["library"]: row for row in self.read()} | complete
            self._replace([rows[name] for name in LIBRARIES if name in rows])

    def _row(self, library):
        known = {
            "library": library.name,
            "language": library.language,
            "version": library.version if isinstance(library.version, str) else library.version(),
            "fragments": "no" if "fragments" in library.lacks else "yes",
            "pings": "no" if "ping" in library.lacks else "yes",
            "note": library.note or "-",
            **self._rows[library],
        }
        return {column: known[column] for column in COLUMNS if column in known}

    @staticmethod
    def _replace(rows):
        lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in rows)]
        table = "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{after}")
