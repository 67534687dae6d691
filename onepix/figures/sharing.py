"""How far networks share their weakness: two matrices, with one row and one column per network."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from onepix.figures import style

GAP = 0.18  # Between the panels, in inches.
PANEL = (style.DOUBLE - 2 * style.MARGIN - GAP) / 2  # Width of a panel, in inches.
AXIS = 0.18  # Room for an axis label, in inches.
PAD = 0.04  # Around the networks' names, in inches.
BAR, BAR_FOOT, LONGEST_BAR = 0.08, 0.38, 2.0  # Heights of a colour bar, and of its ticks and label; length, in inches.
LARGEST = 0.7  # Side of a cell, in inches.
INSET = 0.01  # Between a cell's side and its text, in inches.
NAME_STEP, LONGEST_NAME = 0.05, 1.5  # In inches.
FULL, COUNTED, PAIRED, BARE = 3, 2, 1, 0  # How much a cell shows: all; no interval; the two values; only its value.
BORDER = 1.0  # Between cells, in points.
UNKNOWN = "#EEEEEE"

Line = tuple[str, float]  # A line of text, and its size in points.


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The columns and texts of a matrix.

    Attributes
    ----------
    value, other, count : str
        Columns of the table: the value that the colour shows, the one to compare it with, and the size of the sample.
    heading : str
        Above the matrix.
    name, explained : str
        Names of the two values.
    rows, columns : str
        Roles of the networks.
    symmetric : bool
        Whether the upper triangle is left out, because it would repeat the lower one.
    """

    value: str
    other: str
    count: str
    heading: str
    name: str
    explained: str
    rows: str
    columns: str
    symmetric: bool


MATRICES = (
    Matrix(
        value="transfer",
        other="moved",
        count="successes",
        heading="How often a success on one network flips another",
        name="transfer rate",
        explained="the rate with the colour moved to a random position",
        rows="attacked network",
        columns="network shown the attacked image",
        symmetric=False,
    ),
    Matrix(
        value="jaccard",
        other="chance",
        count="images",
        heading="How far two networks' vulnerable positions overlap",
        name="Jaccard index",
        explained="the index expected by chance",
        rows="network",
        columns="network",
        symmetric=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a matrix shows for a pair of networks.

    Attributes
    ----------
    row, column : int
        Where.
    value, low, high, other : float
        Proportions: the value that the colour shows, its interval, and the one to compare it with; NaN if unknown.
    count : float
        Size of the sample.
    """

    row: int
    column: int
    value: float
    low: float
    high: float
    other: float
    count: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """Sizes that both matrices share, in inches.

    Attributes
    ----------
    names : tuple of str
        The networks, broken into lines.
    cell : float
        Side of a cell.
    """

    names: tuple[str, ...]
    cell: float

    @property
    def side(self) -> float:
        """Side of a matrix."""
        return self.cell * len(self.names)

    @property
    def width(self) -> float:
        """Width that the names take."""
        return max(style.width_of(line, style.SMALL) for name in self.names for line in name.split("\n"))

    @property
    def height(self) -> float:
        """Height that the names of one line or more take."""
        return max(style.height_of(name, style.SMALL) for name in self.names)

    @property
    def turned(self) -> bool:
        """Whether the names of the columns must be rotated."""
        return self.width > self.cell - PAD

    @property
    def foot(self) -> float:
        """Height under a matrix, of names and axis label."""
        return (self.width if self.turned else self.height) + 2 * PAD + AXIS


@style.paper_style()
def sharing(table: pd.DataFrame, title: str, confidence: float = 0.95) -> Figure:
    """Draw how often a success on one network flips another, and how far their vulnerable positions overlap.

    Parameters
    ----------
    table : DataFrame
        Of `onepix.analysis.sharing.sharing_table`: one row per ordered pair of networks.
    title : str
        Above both matrices.
    confidence : float
        Level of the intervals, named under the matrices if they are shown.

    Returns
    -------
    Figure
        Two journal columns wide. On the left, transfer rates: rows are attacked networks, columns the others. On the
        right, Jaccard indices: each pair of networks once. With fewer networks, a cell shows more. A message if nothing
        is known about any pair.
    """
    if table[["transfer", "jaccard"]].isna().all(axis=None):
        return style.message_figure(f"{title}: no two networks with a success or a vulnerable position to compare")
    title = style.wrapped(title, style.LARGE, style.DOUBLE - 2 * style.MARGIN)
    networks = list(dict.fromkeys(table["source"]))
    grid = _grid(networks)
    cells = [_cells(table, networks, matrix) for matrix in MATRICES]
    detail = _detail(cells, grid.cell)
    notes = [_note(*pair, detail, confidence) for pair in zip(MATRICES, cells, strict=True)]
    top = style.MARGIN + style.height_of(title, style.LARGE) + 2 * PAD
    end = top + style.height_of("heading", style.NORMAL) + PAD + grid.side + grid.foot + BAR + BAR_FOOT
    foot = max(style.height_of(note, style.SMALL) for note in notes)
    figure = Figure((style.DOUBLE, end + foot + style.MARGIN))
    style.add_text(figure, style.MARGIN, style.MARGIN, title, style.LARGE)
    for index, (matrix, shown, note) in enumerate(zip(MATRICES, cells, notes, strict=True)):
        left = style.MARGIN + index * (PANEL + GAP)
        style.add_text(figure, left, top, matrix.heading, style.NORMAL)
        _panel(figure, left, end - BAR_FOOT - BAR, grid, matrix, shown, detail)
        style.add_text(figure, left, end, note, style.SMALL)
    return figure


def _grid(networks: list[str]) -> Grid:
    """Choose a width for the names that breaks no word and makes no name higher than a cell."""
    longest = max(style.width_of(piece, style.SMALL) for name in networks for piece in style.PIECES.findall(name))
    for width in np.arange(min(longest + NAME_STEP, LONGEST_NAME), LONGEST_NAME + NAME_STEP, NAME_STEP):
        grid = Grid(tuple(style.wrapped(name, style.SMALL, width) for name in networks), LARGEST)
        room = PANEL - AXIS - 2 * PAD - grid.width
        grid = dataclasses.replace(grid, cell=min(LARGEST, room / len(networks)))
        if grid.height <= grid.cell:
            break
    return grid


def _cells(table: pd.DataFrame, networks: list[str], matrix: Matrix) -> list[Cell]:
    ends = [matrix.value, f"{matrix.value}_low", f"{matrix.value}_high", matrix.other, matrix.count]
    rows, columns = ([networks.index(network) for network in table[end]] for end in ("source", "target"))
    cells = [Cell(*index, *told) for *index, told in zip(rows, columns, table[ends].to_numpy(float), strict=True)]
    return [cell for cell in cells if cell.row > cell.column or not matrix.symmetric]


def _detail(matrices: Sequence[Sequence[Cell]], side: float) -> int:
    """Return how much text fits into every cell."""
    for detail in (FULL, COUNTED, PAIRED):
        pairs = zip(MATRICES, matrices, strict=True)
        if all(_fits(_lines(cell, matrix, detail), side - 2 * INSET) for matrix, cells in pairs for cell in cells):
            return detail
    return BARE


def _fits(lines: list[Line], side: float) -> bool:
    height = sum(style.height_of(*line) for line in lines)
    return height <= side and all(style.width_of(*line) <= side for line in lines)


def _lines(cell: Cell, matrix: Matrix, detail: int) -> list[Line]:
    """Return the text of a cell."""
    value = _percent(cell.value)
    if detail == BARE:
        return [(value, style.SMALLEST)]
    lines = [(value, {FULL: style.LARGE, COUNTED: style.NORMAL, PAIRED: style.SMALL}[detail])]
    if detail == FULL and not np.isnan(cell.low):
        lines.append((f"{_percent(cell.low)}–{_percent(cell.high)}", style.SMALLEST))
    if not np.isnan(cell.other):
        other = _percent(cell.other)
        lines.append((f"{matrix.other} {other}" if detail == FULL else other, style.SMALLEST))
    if detail >= COUNTED:
        lines.append((f"n = {cell.count:.0f}", style.SMALLEST))
    return lines


def _percent(proportion: float) -> str:
    if np.isnan(proportion):
        return "–"
    percent = 100 * proportion
    return f"{percent:.0f}" if percent == 0 or percent >= 9.95 else f"{percent:.1f}"


def _note(matrix: Matrix, cells: Sequence[Cell], detail: int, confidence: float) -> str:
    """Explain what a cell shows."""
    parts = [f"{matrix.name} (%)"]
    if detail == FULL and not all(np.isnan(cell.low) for cell in cells):
        parts.append(f"its {100 * confidence:g} % interval")
    if detail >= PAIRED:
        parts.append(matrix.explained)
    if detail >= COUNTED:
        parts.append(f"{matrix.count} (n)")
    note = f"In each cell{', from the top' if len(parts) > 1 else ''}: {', '.join(parts)}."
    if detail < COUNTED:
        fewest, most = (f"{pick(cell.count for cell in cells):.0f}" for pick in (min, max))
        counts = most if fewest == most else f"{fewest}–{most}"
        note += " " + f"n = {counts} {matrix.count}.".replace(" ", "\N{NO-BREAK SPACE}")
    return style.wrapped(note, style.SMALL, PANEL)


def _panel(
    figure: Figure, left: float, bottom: float, grid: Grid, matrix: Matrix, cells: Sequence[Cell], detail: int
) -> None:
    """Draw a matrix and, `bottom` inches from the figure's top, its colour bar."""
    start = left + AXIS + grid.width + 2 * PAD
    axes = style.add_axes(figure, start, bottom - grid.foot - grid.side, grid.side, grid.side)
    highest = max((100 * cell.value for cell in cells if not np.isnan(cell.value)), default=0.0)
    ticks = MaxNLocator(4).tick_values(0, highest or 100)
    colours = ScalarMappable(Normalize(0, ticks[-1]), style.colour_map("Blues").with_extremes(bad=UNKNOWN))
    shades = np.zeros((len(grid.names), len(grid.names), 4))
    shades[np.diag_indices(len(grid.names))] = to_rgba(style.GREY)
    for cell in cells:
        shade = colours.to_rgba(np.array([100 * cell.value]))[0]
        shades[cell.row, cell.column] = shade
        _write(axes, (cell.column, cell.row), _lines(cell, matrix, detail), style.ink(shade))
    axes.imshow(shades, interpolation="nearest")
    _name(axes, grid, matrix)
    bar = style.add_axes(figure, start, bottom, min(grid.side, LONGEST_BAR), BAR)
    figure.colorbar(colours, cax=bar, orientation="horizontal", ticks=ticks)
    bar.set_xlabel(f"{matrix.name} (%)", size=style.SMALL, labelpad=2)


def _write(axes: Axes, at: tuple[int, int], lines: list[Line], ink: str) -> None:
    """Write lines of several sizes in the middle of a cell."""
    heights = [72 * style.height_of(*line) for line in lines]
    for index, (text, size) in enumerate(lines):
        above = sum(heights) / 2 - sum(heights[:index]) - heights[index] / 2
        axes.annotate(text, at, (0, above), textcoords="offset points", size=size, color=ink, ha="center", va="center")


def _name(axes: Axes, grid: Grid, matrix: Matrix) -> None:
    """Write the networks' names and roles, and draw lines between cells."""
    positions = np.arange(len(grid.names))
    axes.set_xticks(positions, grid.names, rotation=90 if grid.turned else 0)
    axes.set_yticks(positions, grid.names)
    axes.set(xlabel=matrix.columns, ylabel=matrix.rows)
    axes.set_xticks(positions[1:] - 0.5, minor=True)
    axes.set_yticks(positions[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=BORDER)
    axes.tick_params(which="both", length=0, pad=72 * PAD)
    axes.spines[:].set_visible(False)
