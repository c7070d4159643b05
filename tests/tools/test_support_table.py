"""The support table: its text on made-up cells, and some students in truth."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools" / "support_table.py"


@pytest.fixture(scope="module")
def tool():
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(PATH.parent)
    spec = importlib.util.spec_from_file_location("support_table_tool", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name], sys.modules["support_architectures"]
    monkeypatch.undo()


def row(tool, **cells):
    return {mode: cells.get(mode, tool.Cell(steps=1.24)) for mode in tool.MODES}


def test_cells_and_notes(tool):
    refused = tool.Cell(word="refused", reason="For a reason.")
    floats = tool.Cell(word="float, off by 2%", reason="A layer stays float.")
    rows = {
        "one": row(tool, float32=tool.Cell(steps=0.0, micro=True), int8=refused),
        "two": row(tool, float16=tool.Cell(steps=2.0, reason="Off."), int8=refused, int16x8=floats),
    }
    lines = tool.table(rows, 60).splitlines()
    start = lines.index("")
    assert "60 examples" in " ".join(lines[:start])
    assert lines[start + 1 :] == [
        "| student | float32 | float16 | dynamic range | int8 | int8 per tensor | int16x8 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| one | 0.0 µ | 1.2 | 1.2 | refused (1) | 1.2 | 1.2 |",
        "| two | 1.2 | 2.0 (2) | 1.2 | refused (1) | 1.2 | float, off by 2% (3) |",
        "",
        "1. For a reason.",
        "2. Off.",
        "3. A layer stays float.",
    ]


def test_reasons_are_taken_from_the_error(tool):
    islands = tool.refused(
        "Expected an all-integer model. Received: 2 float tensors:\n"
        "  'a' float32[1] from PReLU 'p', at PRELU\n  'b' float32[1] from GRU 'g', at ADD\n"
        "2 of 3 ops read or write them. As it is, the model is off by up to 3.1% of an output's"
    )
    assert islands.word == "float, off by 3.1%"
    assert islands.reason.startswith("Float tensors are left at GRU, PReLU; `allow_float`")
    other = tool.refused(
        "Expected a.\nReceived: LSTM 'lstm_3', with b. Hint: c.\x1b[0m\n\nArguments received by x"
    )
    assert (other.word, other.reason) == ("refused", "LSTM 'lstm', with b. Instead: c.")


def test_the_section_of_a_page(tool):
    page = f"before\n{tool.BEGIN}\nold\n{tool.END}\nafter\n"
    new = tool.with_section(page, "new")
    assert new == f"before\n{tool.BEGIN}\nnew\n{tool.END}\nafter\n"
    assert tool.with_section(new, "new") == new
    for wrong in ("nothing", tool.END + tool.BEGIN, page + page):
        with pytest.raises(ValueError, match="Expected a line '<!-- support table"):
            tool.with_section(wrong, "new")


def test_check_and_write(tool, tmp_path, monkeypatch, capsys):
    """The page is right whatever the errors, and wrong when something runs that did not."""
    page = tmp_path / "README.md"
    page.write_text(f"# Title\n{tool.BEGIN}\n{tool.END}\n")
    cells = {"one": row(tool)}
    monkeypatch.setattr(tool, "measured", lambda chosen: cells)
    assert tool.main(["--check", str(page)]) == 1
    assert "--write" in capsys.readouterr().err
    assert tool.main(["--write", str(page)]) == 0
    assert "| one | 1.2 |" in page.read_text()
    cells["one"]["int8"] = tool.Cell(steps=3.4)
    assert tool.main(["--check", str(page)]) == 0
    cells["one"]["int8"] = tool.Cell(word="refused", reason="no")
    assert tool.main(["--check", str(page)]) == 1
    assert "| one | 1.2 |" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "Perceptron"], "no student has Perceptron"),
        (["--only", "GRU", "--write", "x"], "--only prints a part"),
    ],
)
def test_usage(tool, arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_every_student_can_be_made_and_fed(tool):
    names = [architecture.name for architecture in tool.ARCHITECTURES]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "|" in name]


def test_two_students(tool, monkeypatch, capsys):
    """One that is fine, and one that is refused before any conversion."""
    monkeypatch.setattr(tool, "MODES", {name: tool.MODES[name] for name in ("float32", "int8")})
    assert tool.main(["--only", "Sequential", "not built"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split(" | ")[0]: line for line in lines if line.startswith("| ")}
    float32, int8 = cells["| Dense; Sequential"].rstrip(" |").split(" | ")[1:]
    assert float32 == "0.0 µ"
    # Two layers and a softmax: some three steps, as in tests/deploy/test_convert.py.
    assert float(int8.removesuffix(" µ")) <= 4
    assert cells["| subclassed, not built"].count("refused (1)") == 2
    assert "1. Subclassed 'subclassed', which has no weights yet. Instead: call it" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "integer"),
    [
        ("LSTM", {"int8": None, "int8 per tensor": None, "int16x8": None}),
        ("LSTM, masked", {"int8": "refused", "int8 per tensor": "refused", "int16x8": "refused"}),
        ("GroupNormalization", {"int8": "float, off by", "int16x8": "float"}),
        ("PReLU", {"int8": None, "int16x8": "float"}),
        ("mixed_float16", {"int8": None}),
    ],
)
def test_some_students(tool, name, integer):
    (architecture,) = (found for found in tool.ARCHITECTURES if found.name == name)
    for mode, word in {"float32": None, **integer}.items():
        cell = tool.converted(architecture, mode)
        if word is None:
            assert cell.steps <= (0.5 if mode == "float32" else 8)
            # A loop with a mask asks REDUCE_ANY, which TFLite Micro lacks.
            assert cell.micro is (name != "LSTM, masked")
        else:
            assert cell.word.startswith(word)
            assert cell.reason
