"""Reports: text, Markdown, JSON that keeps its layout, a page that needs nothing beside it."""

import dataclasses
import html.parser
import json
import os
import re
import subprocess
import sys

import pytest

import keras_kd
from keras_kd.report import (
    Column,
    Facts,
    LinePlot,
    MatrixPlot,
    PointPlot,
    Report,
    Section,
    Series,
    Table,
    Text,
    Uncertain,
    shown,
)

NASTY = "<script>alert('&\"')</script>"


@pytest.fixture
def table():
    return Table(
        columns=(
            Column("Model"),
            Column("Accuracy", "%", digits=1, scale=100),
            Column("Size", "bytes"),
        ),
        rows=(
            ("teacher", Uncertain(0.991, 0.0041), 304316),
            ("student on TFLM", Uncertain(0.95), None),
        ),
        title="Result",
        note="A note.",
        highlight=1,
    )


@pytest.fixture
def plots():
    lines = LinePlot(
        "Curves",
        "epoch",
        "accuracy (%)",
        (
            Series("alone", (1, 2), (50.0, 60.0), (1.0, 2.0)),
            Series("distilled", (1, 2), (55.0, 70.0), dashed=True),
        ),
    )
    points = PointPlot(
        "Sizes",
        "size (bytes)",
        "accuracy (%)",
        (Series("teacher", (300000,), (99.0,), (0.4,)), Series("student", (5000,), (95.0,))),
        log_x=True,
        note="Bars: standard errors.",
    )
    matrix = MatrixPlot("Confusion", "answer", "truth", ("0", "1"), ((49, 1), (0, 50)))
    return lines, points, matrix


@pytest.fixture
def report(table, plots):
    sections = (
        Section("Result", (table, Text("A paragraph."))),
        Section("Pictures", plots, columns=2),
        Section("How", (Facts((("Data", "digits"), ("Seeds", "0, 1"))),)),
    )
    return Report("A title", "A summary.", sections, data={"seeds": (0, 1), "nan": float("nan")})


def test_text_in_full(report):
    assert report.text() == (
        "A title\n=======\n\nA summary.\n\nResult\n------\n\n"
        "Result\n"
        "Model            Accuracy (%)  Size (bytes)\n"
        "---------------  ------------  ------------\n"
        "teacher            99.1 ± 0.4       304,316\n"
        "student on TFLM          95.0             \N{EN DASH}\n"
        "A note.\n\nA paragraph.\n\n"
        "How\n---\n\nData   digits\nSeeds  0, 1\n"
    )


def test_markdown_in_full(report):
    assert report.markdown() == (
        "# A title\n\nA summary.\n\n## Result\n\n"
        "**Result**\n\n"
        "| Model | Accuracy (%) | Size (bytes) |\n"
        "| --- | ---: | ---: |\n"
        "| teacher | 99.1 ± 0.4 | 304,316 |\n"
        "| student on TFLM | 95.0 | \N{EN DASH} |\n\n"
        "A note.\n\nA paragraph.\n\n"
        "## How\n\n- Data: digits\n- Seeds: 0, 1\n"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain words, 1.5 + 2 - 3 (%): #4", "plain words, 1.5 + 2 - 3 (%): #4"),
        ("litert_reference", "litert_reference"),
        ("_one_ and __two__", r"\_one\_ and \_\_two\_\_"),
        ("a|b *c* `d` ~e~ $f$ \\", r"a\|b \*c\* \`d\` \~e\~ \$f\$ \\"),
        ("<b>&amp; [x](y)", r"\<b\>\&amp; \[x\](y)"),
        ("two\nlines", "two lines"),
        ("- 3 points", r"\- 3 points"),
        ("-3 points, +3", "-3 points, +3"),
        ("1. first", r"1\. first"),
        ("1.5 first", "1.5 first"),
        ("## no heading", r"\## no heading"),
        ("---", r"\---"),
    ],
)
def test_markdown_shows_text_as_it_is(text, line):
    table = Table((Column("x"),), ((text,),), note=text)
    report = Report("t", "s", (Section("u", (Text(text), Facts(((text, text),)), table)),))
    expected = f"{line}\n\n- {line}: {line}\n\n| x |\n| --- |\n| {line} |\n\n{line}\n"
    assert report.markdown() == f"# t\n\ns\n\n## u\n\n{expected}"


@pytest.mark.parametrize(
    ("cell", "column", "text"),
    [
        (None, Column("x"), "\N{EN DASH}"),
        ("word", Column("x"), "word"),
        (1234567, Column("x"), "1,234,567"),
        (0.5, Column("x"), "0.5"),
        (1234.5678, Column("x", digits=2), "1,234.57"),
        (-0.0126, Column("x", digits=1, scale=100), "-1.3"),
        (0.001, Column("x", scale=1000), "1"),
        (float("nan"), Column("x", digits=1), "nan"),
        (Uncertain(0.5, 0.25), Column("x", digits=2), "0.50 ± 0.25"),
        (Uncertain(0.5), Column("x", digits=2), "0.50"),
    ],
)
def test_shown(cell, column, text):
    assert shown(cell, column) == text


def test_json_has_a_version_and_plain_values(report):
    content = json.loads(report.to_json())
    assert (content["schema"], content["schema_version"]) == ("keras_kd.report", 1)
    assert content["data"] == {"seeds": [0, 1], "nan": None}
    blocks = content["sections"][0]["blocks"]
    assert [block["kind"] for block in blocks] == ["table", "text"]
    assert blocks[0]["columns"][1] == {
        "kind": "column",
        "name": "Accuracy",
        "unit": "%",
        "digits": 1,
        "scale": 100,
    }
    accuracy = {"kind": "uncertain", "value": 0.991, "spread": 0.0041}
    assert blocks[0]["rows"][0] == ["teacher", accuracy, 304316]
    kinds = [block["kind"] for block in content["sections"][1]["blocks"]]
    assert kinds == ["lineplot", "pointplot", "matrixplot"]
    assert content["sections"][1]["blocks"][2]["counts"] == [[49, 1], [0, 50]]


def test_json_of_what_is_no_json_is_an_error():
    with pytest.raises(TypeError, match=r"Expected JSON values .*Received: object"):
        Report("t", "s", data={"x": object()}).to_json()


class Page(html.parser.HTMLParser):
    """Collects a page's elements and fails on any that is not closed in order."""

    VOID = {"meta", "path", "rect", "use", "line", "circle", "image", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_nothing_beside_itself(report):
    text = report.to_html()
    page = Page(text)
    assert page.tags.count("svg") == 3
    assert page.tags.count("table") == 1
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    for tag, name, value in page.attributes:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#"), (tag, value)
            assert value[1:] in page.ids
        for target in re.findall(r"url\((.*?)\)", value or ""):
            assert target[1:] in page.ids
    addresses = set(re.findall(r"https?://[^\"' ]+", text))
    # Names of XML vocabularies, which nothing fetches.
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_plots_follow_the_page_and_are_labelled_with_units(report):
    text = report.to_html()
    assert "prefers-color-scheme: dark" in text
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for svg in svgs:
        # Every color that is drawn with is the page's.
        assert not re.findall(r"(?:fill|stroke): #\w+", svg)
        assert "var(--ink)" in svg
        assert "DejaVu" not in svg
    assert "epoch" in svgs[0]
    assert "accuracy (%)" in svgs[0]
    assert "size (bytes)" in svgs[1]
    assert ">49<" in svgs[2].replace("\n", "")
    assert "Bars: standard errors." in text


def test_the_same_report_is_the_same_page(report):
    assert report.to_html() == report.to_html()


def test_all_text_is_escaped(plots):
    hostile_plots = tuple(
        dataclasses.replace(plot, title=NASTY, x_label=NASTY, y_label=NASTY, note=NASTY)
        for plot in plots
    )
    series = (Series(NASTY, (1, 2), (1.0, 2.0)),)
    blocks = (
        Table((Column(NASTY, NASTY),), ((NASTY,),), title=NASTY, note=NASTY),
        Text(NASTY),
        Facts(((NASTY, NASTY),)),
        *hostile_plots,
        dataclasses.replace(hostile_plots[0], series=series),
        MatrixPlot("m", "x", "y", (NASTY,), ((1,),)),
    )
    text = Report(NASTY, NASTY, (Section(NASTY, blocks),)).to_html()
    assert "script" not in Page(text).tags
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 12


def test_a_dollar_is_a_dollar(plots):
    plot = dataclasses.replace(plots[0], x_label="cost ($x_1$)")
    text = Report("$title", "${summary}", (Section("$5", (plot, Text("$$"))),)).to_html()
    for expected in ("$title", "${summary}", "$5", "$$", "cost ($x_1$)"):
        assert expected in text


def test_numbers_are_aligned_and_words_are_not(report):
    text = report.to_html()
    assert '<th scope="col" class="number">Accuracy <small>%</small></th>' in text
    assert '<td class="">teacher</td>' in text
    assert '<tr class="highlight"><td class="">student on TFLM</td>' in text


def test_a_short_row_is_an_error():
    with pytest.raises(ValueError, match=r"Expected 2 cells .*'t'.*Received: 1"):
        Table((Column("a"), Column("b")), (("x",),), title="t")


def test_reports_are_frozen(report, table):
    for thing, name in ((report, "title"), (table, "rows"), (report.sections[0], "blocks")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)


@pytest.mark.parametrize("method", ["write_text", "write_markdown", "write_json", "write_html"])
def test_files_are_whole_and_nothing_else_is_left(report, tmp_path, method):
    path = tmp_path / "report.out"
    path.write_text("old")
    getattr(report, method)(path)
    maker = {
        "write_text": report.text,
        "write_markdown": report.markdown,
        "write_json": report.to_json,
        "write_html": report.to_html,
    }
    assert path.read_text(encoding="utf-8") == maker[method]()
    assert os.listdir(tmp_path) == ["report.out"]


def test_a_failed_write_keeps_the_old_file(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        report.write_json(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_are_as_readable_as_any_new_file(report, tmp_path):
    (tmp_path / "plain").write_text("x")
    report.write_json(tmp_path / "report.json")
    modes = {os.stat(tmp_path / name).st_mode for name in ("plain", "report.json")}
    assert len(modes) == 1


def test_matplotlib_is_missing_only_when_plots_are_drawn(report, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.text()
    report.to_json()
    dataclasses.replace(report, sections=report.sections[:1]).to_html()
    with pytest.raises(ImportError, match=r"Expected matplotlib.*pip install keras_kd\[demo\]"):
        report.to_html()


def test_the_module_imports_nothing_heavy():
    """Its files alone: `import keras_kd` loads TensorFlow before them."""
    code = (
        "import sys, types\n"
        "package = types.ModuleType('keras_kd')\n"
        f"package.__path__ = {keras_kd.__path__!r}\n"
        "sys.modules['keras_kd'] = package\n"
        "import keras_kd.report\n"
        "heavy = {'numpy', 'matplotlib', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
