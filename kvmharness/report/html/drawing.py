# SPDX-License-Identifier: GPL-2.0-or-later
"""A timeline as a picture (SVG) in a page of HTML, whose style sheet gives it its colours."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import drawsvg

from kvmharness.report.html.timeline import SECOND_NS, Predicted, Timeline, TscLine

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 64, 24, 40
_LINE = 14  # how far apart two labels have to be
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_COLOURS = 4  # of vCPUs, in the style sheet
_MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class _Frame:
    """Which part of host time and of guest time is shown, in ns."""

    from_x: float
    to_x: float
    from_y: float
    to_y: float

    def x(self, ns: float) -> float:
        """Where a host time is drawn."""
        return _LEFT + (ns - self.from_x) / (self.to_x - self.from_x) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, ns: float) -> float:
        """Where a guest time is drawn."""
        return _HEIGHT - _BOTTOM - (ns - self.from_y) / (self.to_y - self.from_y) * (_HEIGHT - _TOP - _BOTTOM)


def draw(observed: Timeline | None, predicted: Sequence[tuple[str, Predicted]], said: str) -> str:
    """The picture: observed lines, and beside them those that each policy predicts, by its letter.

    `said` is what the picture shows, for those who cannot see it.
    """
    timelines = [*([observed] if observed else []), *(each.timeline for _, each in predicted)]
    frame = _frame(timelines)
    picture = drawsvg.Drawing(_WIDTH, _HEIGHT)
    picture.append(drawsvg.Title(said))
    _axes(picture, frame)
    writes = (observed or timelines[0]).writes
    for each in writes:
        if each.expected is not None and each.value:
            low = frame.y(max(frame.from_y, each.expected - SECOND_NS))
            high = frame.y(min(frame.to_y, each.expected + SECOND_NS))
            x = frame.x(each.moment)
            if low > high:
                box = drawsvg.Rectangle(x - 5, high, 10, low - high, class_="window")
                picture.append(box)
    labels: list[tuple[float, str, str]] = []
    for letter, each_predicted in predicted:
        for line in each_predicted.timeline.lines:
            picture.append(_path(line, frame, "policy"))
            labels.append((frame.y(line.points[-1][1]), letter, "policy"))
    for line in observed.lines if observed else ():
        kind = f"vcpu v{line.vcpu % _COLOURS}"
        picture.append(_path(line, frame, kind))
        labels.append((frame.y(line.points[-1][1]), f"vCPU {line.vcpu}", f"l{line.vcpu % _COLOURS}"))
    for each in writes:
        x, y = frame.x(each.moment), frame.y(each.value)
        picture.append(drawsvg.Circle(x, y, 4.5, class_="write"))
    _label_writes(picture, frame, timelines)
    for y, text, kind in _apart(labels):
        picture.append(drawsvg.Text(text, 12, _WIDTH - _RIGHT + 5, y + 4, class_=f"label {kind}"))
    return _inline(picture.as_svg(header=""))


def _inline(svg: str) -> str:
    """As it stands within HTML: as wide as there is room, and without what a file of its own needs."""
    head, _, rest = svg.strip().partition(">")
    kept = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    assert head.startswith("<svg")
    return kept + ">" + rest.replace("\n", "").replace("<defs></defs>", "")


def _frame(timelines: Sequence[Timeline]) -> _Frame:
    xs = [moment for each in timelines for moment in each.moments]
    ys = [y for each in timelines for line in each.lines for _, y in line.points]
    ys += [each.value for timeline in timelines for each in timeline.writes]
    low, high = min([0.0, *ys]), max([0.0, *ys])
    room = max((high - low) * 0.06, 1.0)
    return _Frame(0.0, max([1.0, *xs]), low - (room if low < 0 else 0), high + room)


def _axes(picture: drawsvg.Drawing, frame: _Frame) -> None:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for ns, text in _ticks(frame.from_y, frame.to_y):
        y = round(frame.y(ns), 1)
        picture.append(drawsvg.Line(_LEFT, y, right, y, class_="grid"))
        picture.append(drawsvg.Text(text, 11, _LEFT - 5, y + 4, class_="tick end"))
    for ns, text in _ticks(frame.from_x, frame.to_x, 5):
        x = round(frame.x(ns), 1)
        picture.append(drawsvg.Line(x, bottom, x, bottom + 4, class_="axis"))
        picture.append(drawsvg.Text(text, 11, x, bottom + 16, class_="tick middle"))
    picture.append(drawsvg.Line(_LEFT, bottom, right, bottom, class_="axis"))
    picture.append(drawsvg.Text("guest TSC", 11, 4, 13, class_="tick"))
    picture.append(
        drawsvg.Text("host time since step 1", 11, (_LEFT + right) / 2, _HEIGHT - 6, class_="tick middle")
    )


def _ticks(low: float, high: float, most: int = 6) -> Iterator[tuple[float, str]]:
    """Round numbers in between, each with its text."""
    span = high - low
    unit, name = next(((unit, name) for unit, name in _UNITS if span >= unit), _UNITS[-1])
    raw = span / unit / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= raw) * unit
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield number * step, f"{number * step / unit:.10g} {name}"


def _path(line: TscLine, frame: _Frame, kind: str) -> drawsvg.Path:
    path = drawsvg.Path(class_=kind)
    for place, (x, y) in enumerate(line.points):
        move = path.M if place == 0 else path.L
        move(round(frame.x(x), 1), round(frame.y(y), 1))
    return path


def _label_writes(picture: drawsvg.Drawing, frame: _Frame, timelines: Sequence[Timeline]) -> None:
    """The step of each write beside it, as far as there is room."""
    used: list[tuple[float, float]] = []
    for each in timelines[0].writes[:_MOST_LABELS]:
        x, y = frame.x(each.moment), frame.y(each.value)
        if any(abs(x - other) < 90 and abs(y - above) < _LINE for other, above in used):
            continue
        used.append((x, y))
        is_right = x > (_LEFT + _WIDTH - _RIGHT) / 2
        side, kind = (-9, "end") if is_right else (9, "start")
        text = f"step {each.step}: written"
        picture.append(drawsvg.Text(text, 11, x + side, y - 5, class_=f"tick {kind}"))


def _apart(labels: Sequence[tuple[float, str, str]]) -> Iterator[tuple[float, str, str]]:
    """Labels pushed apart, so that none covers another. Those of one place and kind are one."""
    merged: dict[tuple[int, str], tuple[float, list[str], str]] = {}
    for y, text, kind in labels:
        found = merged.setdefault((round(y / 4), kind), (y, [], kind))
        if text not in found[1]:
            found[1].append(text)
    found_all = sorted(merged.values())
    last = -math.inf
    placed = []
    for y, texts, kind in found_all:
        last = max(y, last + _LINE)
        placed.append((last, ", ".join(texts), kind))
    over = max(0.0, (placed[-1][0] - (_HEIGHT - _BOTTOM)) if placed else 0.0)
    limit = math.inf
    for y, text, kind in reversed(placed):
        limit = min(y - over if y == placed[-1][0] else y, limit - _LINE)
        yield limit, text, kind
