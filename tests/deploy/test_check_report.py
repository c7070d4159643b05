"""A check as text, JSON and a page."""

import dataclasses
import json

import pytest

from keras_kd import deploy
from keras_kd.deploy import check_report
from keras_kd.deploy.check import Check
from keras_kd.deploy.devices import Device, Fact
from keras_kd.deploy.findings import (
    ERROR,
    NOTE,
    WARNING,
    Budget,
    Estimate,
    Finding,
    Placement,
    Verdict,
)

BOARD = Device(
    "board",
    "My board",
    "tflm",
    ram_bytes=Fact(1000, "its manual", "run on it"),
    input_dtypes=Fact(("int8", "uint8"), "its firmware"),
)
LONG = "word " * 60


@pytest.fixture
def checked(by_hand):
    """A check with something of everything."""
    tensors = [by_hand.tensor(name) for name in ("in", "first/relu", "second/relu", "<b>&\x1b")]
    info = deploy.model_info(by_hand.chain(["RELU", "RELU6", "+Own"], tensors))
    verdict = Verdict(
        findings=(
            Finding(NOTE, "a-note", "Good to know.", "Nothing."),
            Finding(
                ERROR, "an-error", "It has no RELU.", "Replace it.", ("RELU #0",), "its kernels"
            ),
            Finding(WARNING, "a-warning", LONG, "Wait.", (), "a page", "run there"),
        ),
        placements=(
            Placement(info.ops[0], "npu"),
            Placement(info.ops[1], "npu"),
            Placement(info.ops[2], "cpu", "no such op"),
        ),
        budgets=(
            Budget("flash", 250, 1000, "the file"),
            Budget("RAM", 1100, 1000, "measured"),
            Budget("cache", None, 7, "not known"),
            Budget("disk", 3, None, "no bound"),
        ),
        estimates=(
            Estimate("arena", 12345, "bytes", "measured in TFLM"),
            Estimate("inference", 0.40321, "ms", "estimated by Vela"),
            Estimate("unit", "CMSIS-NN", "", "assumed"),
        ),
        not_run=("The board was not run; TFLM was.",),
    )
    return Check("student.tflite", info, BOARD, verdict)


@pytest.fixture
def fitting(checked):
    return dataclasses.replace(checked, verdict=Verdict())


def test_the_verdict_is_the_first_line(checked, fitting):
    first = check_report.text(checked).splitlines()[0]
    assert first == "student.tflite does not fit My board"
    assert check_report.text(fitting).splitlines()[0] == "student.tflite fits My board"
    assert "No errors, no warnings, no notes." in check_report.text(fitting)


def test_text_has_each_problem_with_place_and_cure(checked):
    text = check_report.text(checked)
    assert (
        "1 error, 1 warning, 1 note. Flash: 750 bytes left of 1,000. RAM: 100 bytes too few" in text
    )
    problem = text[text.index("Error: an-error") : text.index("Warning: a-warning")]
    assert problem.split("\n")[3:] == [
        "what        It has no RELU.",
        "what to do  Replace it.",
        "where       RELU #0",
        "verified    not verified on the device",
        "",
        "",
    ]
    # What was run needs no word, and no source on a terminal.
    warning = text[text.index("Warning: a-warning") : text.index("Note: a-note")]
    assert "verified" not in warning
    assert "its kernels" not in text
    for shown in (
        "█████░░░░░░░░░░░░░░░ 25 %",
        "████████████████████ 110 %",
        "12,345 bytes (measured in TFLM)",
        "0.4032 ms (estimated by Vela)",
        "CMSIS-NN (assumed)",
        "The board was not run; TFLM was.",
        "no such op: Own #2 (<b>&\N{REPLACEMENT CHARACTER})",
    ):
        assert shown in text
    order = ["Memory", "Error: an", "Where the ops run", "Why some", "Numbers", "Not run here"]
    assert sorted(order, key=text.index) == order


def test_long_lines_are_folded_below_themselves(checked):
    lines = check_report.text(checked).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("what        word"))
    assert lines[start + 1].startswith(" " * 12 + "word")
    folded = [line for line in lines if "word" in line]
    assert max(map(len, folded)) <= check_report.TERMINAL_WIDTH
    assert " ".join(folded).split().count("word") == 60


def test_a_terminal_is_not_written_on(checked):
    assert "\x1b" not in check_report.text(checked) + check_report.report(checked).to_html()


def test_page_has_sources_and_every_op(checked):
    page = check_report.report(checked).to_html()
    for shown in (
        "its kernels",
        "none given",
        "not verified on the device",
        "1,000 (source: its manual; run on it)",
        "int8, uint8 (source: its firmware; not verified on the device)",
        "first/relu",
        "RELU6 v1 x 1",
        "&lt;b&gt;&amp;",
    ):
        assert shown in page
    assert "<b>" not in page
    # The evidence stands behind the answer.
    assert page.index("Memory</h2>") < page.index("Error: an-error") < page.index("Every op")


def test_many_places_are_cut(checked):
    many = dataclasses.replace(
        checked.verdict.findings[1], where=tuple(f"RELU #{i}" for i in range(40))
    )
    check = dataclasses.replace(checked, verdict=Verdict(findings=(many,)))
    text = " ".join(check_report.text(check).split())
    assert "RELU #11; and 28 more" in text
    assert "RELU #12;" not in text
    assert len(check_report.data(check)["findings"][0]["where"]) == 40


def test_json_has_all_of_it(checked):
    read = json.loads(check_report.report(checked).to_json())["data"]
    assert (read["model"], read["fits"], read["quantization"]) == ("student.tflite", False, "int8")
    assert read["device"]["facts"]["ram_bytes"] == {
        "value": 1000,
        "source": "its manual",
        "verified": "run on it",
    }
    assert [f["rule"] for f in read["findings"]] == ["an-error", "a-warning", "a-note"]
    assert [f["is_verified"] for f in read["findings"]] == [False, True, False]
    assert read["findings"][0]["source"] == "its kernels"
    assert read["placements"][2] == {
        "op": 2,
        "subgraph": 0,
        "name": "Own",
        "origin": "<b>&\x1b",
        "target": "cpu",
        "reason": "no such op",
    }
    assert [b["margin_bytes"] for b in read["budgets"]] == [750, -100, None, None]
    assert read["estimates"][1]["value"] == 0.40321
    assert read["not_run"] == ["The board was not run; TFLM was."]


def test_several_devices_in_one_table(checked, fitting):
    other = dataclasses.replace(
        fitting, device=dataclasses.replace(BOARD, name="other", title="Another board")
    )
    report = check_report.comparison([checked, other])
    text = report.text()
    assert text.splitlines()[0] == "student.tflite fits 1 of 2 devices"
    assert "It fits: Another board." in text
    (row,) = [line for line in text.splitlines() if line.startswith("board ")]
    assert row.split(maxsplit=4) == ["board", "no", "750", "-100", "It has no RELU."]
    assert json.loads(report.to_json())["data"]["fits"] is False
    assert "Why not" in text
    whole = check_report.comparison([other])
    assert json.loads(whole.to_json())["data"]["fits"] is True
    assert "Why not" not in whole.text()
    with pytest.raises(ValueError, match="Expected at least one check"):
        check_report.comparison([])


def test_a_long_reason_is_cut_in_the_table_and_whole_below(checked):
    long = dataclasses.replace(checked.verdict.findings[1], message=LONG.strip())
    check = dataclasses.replace(checked, verdict=Verdict(findings=(long,)))
    table, why = check_report.comparison([check]).sections
    reason = table.blocks[0].rows[0][-1]
    assert len(reason) <= check_report.REASON_LENGTH
    assert reason.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert why.blocks[0].items == (("My board", LONG.strip()),)


def test_a_memory_without_a_finding_is_the_reason(checked):
    verdict = Verdict(budgets=checked.verdict.budgets)
    report = check_report.comparison([dataclasses.replace(checked, verdict=verdict)])
    assert report.sections[0].blocks[0].rows[0][-1] == "RAM: 100 bytes too few of 1,000."
