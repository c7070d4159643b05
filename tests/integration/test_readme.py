"""The README's code runs as it stands there, and what it points to exists."""

import ast
import pathlib
import pkgutil
import re
import runpy

import pytest

import keras_kd

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(heading):
    """Return the first block of code whose fence begins with the heading."""
    return re.search(rf"^```{heading}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[1]


def test_the_main_path_runs(tmp_path, monkeypatch, capsys):
    # Epochs of ten would only cost time: what is taught is tested elsewhere.
    source = f"{block('python setup')}\n{block('python')}".replace("epochs=10", "epochs=1")
    script = tmp_path / "main_path.py"
    script.write_text(source)
    monkeypatch.chdir(tmp_path)
    result = runpy.run_path(str(script))
    assert (tmp_path / "student.keras").exists()
    assert (tmp_path / "student.tflite").read_bytes() == result["artifact"].content
    assert [row.runtime for row in result["rows"]] == ["litert", "tflm"]
    assert "Measurement" in capsys.readouterr().out


def test_the_table_of_methods_is_that_of_the_registry():
    assert keras_kd.losses.table() in README


def test_the_main_path_has_ten_lines():
    assert len([line for line in block("python").splitlines() if line.strip()]) == 10


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "ARCHITECTURE.md"]
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} points to {link}"


def test_what_is_named_as_code_exists():
    """The second column of the table of contents holds public names and commands."""
    table = README.split("## What is in it")[1].split("\n\n")[1]
    names = re.findall(r"^\|[^|]*\| `([\w.]+)` \|", table, re.MULTILINE)
    assert len(names) > 5
    for name in names:
        pkgutil.resolve_name(f"keras_kd.{name}")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_code_on_the_pages_names_what_exists(page):
    """It is not run, as it lacks models and data, but parsed, and its names are looked up."""
    for source in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(source)):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"keras_kd[\w.]+", name):
                pkgutil.resolve_name(name)
