"""Bar plots: what is drawn, how long, in which color, and that nothing stands on anything else."""

import re

import pytest

from keras_kd.report import Bar, BarPlot, Report, Section
from keras_kd.report.plots import svg


def boxes(drawing):
    """Top and width of each rectangle in points, but for the figure's and the axes' own."""
    found = []
    for path in re.findall(r'<path d="([^"]*z)\s*"', drawing):
        points = re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)
        xs, ys = zip(*[(float(x), float(y)) for x, y in points], strict=True)
        found.append((min(ys), max(xs) - min(xs)))
    return found[2:]


def texts(drawing):
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawing)]


def test_bars_are_as_long_as_their_values_and_in_order():
    plot = BarPlot("t", "bytes", (Bar("one", 30.0), Bar("two", 10.0), Bar("three", 20.0)))
    tops, widths = zip(*boxes(svg(plot, 1)), strict=True)
    assert list(tops) == sorted(tops)
    # Matplotlib writes points with six decimals.
    assert list(widths) == pytest.approx([3 * widths[1], widths[1], 2 * widths[1]], rel=1e-4)


def test_labels_are_the_numbers_or_what_was_given():
    bars = (
        Bar("a", 1234.5),
        Bar("b", 2.0, label="2.0 of 8 kB"),
        Bar("c", None),
        Bar("d", None, label="exact"),
    )
    found = texts(svg(BarPlot("t", "x label (kB)", bars), 1))
    for expected in ("1,234", "2.0 of 8 kB", "not known", "exact", "x label (kB)", "a", "d"):
        assert expected in found


def test_a_limit_is_a_line_with_a_name_and_longer_bars_are_cut():
    bars = (Bar("fits", 50.0), Bar("does not", 900.0, color=1, label="9 of 1 kB"))
    plot = BarPlot("t", "%", bars, limit=100.0, limit_label="all there is", x_max=150.0)
    drawing = svg(plot, 1)
    assert "all there is" in texts(drawing)
    assert "stroke-dasharray" in drawing
    assert "var(--series-1)" in drawing
    ticks = [int(text) for text in texts(drawing) if text.isdigit()]
    assert max(ticks) <= 150
    # A track to 100 behind each bar, then the bars; matplotlib writes six decimals.
    widths = [width for _, width in boxes(drawing)]
    assert widths == pytest.approx([share * widths[0] for share in (1, 1, 0.5, 1.5)], rel=1e-4)


def test_dots_need_no_zero():
    bars = (Bar("a", 91.0, error=0.5), Bar("b", 92.0, error=0.4, hollow=True))
    ticks = [
        t for t in texts(svg(BarPlot("t", "%", bars, dots=True), 1)) if re.match(r"[\d.]+$", t)
    ]
    assert "0" not in ticks
    assert "0" in texts(svg(BarPlot("t", "%", bars), 1))


@pytest.mark.parametrize(
    "bars",
    [(), (Bar("zero", 0.0),), (Bar("none", None),), (Bar("below", -3.0), Bar("above", 3.0))],
)
@pytest.mark.parametrize("dots", [False, True])
def test_odd_numbers_are_drawn(bars, dots):
    drawing = svg(BarPlot("t", "x", bars, dots=dots), 1)
    assert "nan" not in drawing
    for bar in bars:
        assert bar.name in texts(drawing)


def test_more_bars_make_a_taller_picture_that_the_page_does_not_squeeze():
    def height(count):
        plot = BarPlot("t", "x", tuple(Bar(str(i), 1.0) for i in range(count)))
        return float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg(plot, 1))[1])

    # A third of an inch a bar, in points.
    assert height(30) - height(10) == pytest.approx(20 * 0.34 * 72, rel=1e-6)
    page = Report("t", "s", (Section("s", (BarPlot("t", "x", (Bar("a", 1.0),)),)),)).to_html()
    assert '<figure class="bars">' in page
    assert ".bars svg { max-height: none; }" in page


def test_the_end_of_a_long_name_is_shown():
    name = "stage_1/block_2/expand_and_project/depthwise_conv"
    (shown,) = [
        text for text in texts(svg(BarPlot("t", "x", (Bar(name, 1.0),)), 1)) if "conv" in text
    ]
    assert shown.startswith("…")
    assert name.endswith(shown[1:])
    assert len(shown) == 26
