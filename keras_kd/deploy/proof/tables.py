"""The tables of a proof, and the section of a device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from keras_kd.deploy import check_report
from keras_kd.deploy.check import Check
from keras_kd.deploy.findings import printable
from keras_kd.deploy.layer_error import LayerError
from keras_kd.deploy.litert_benchmark import RESOLUTION_MS, LiteRTBenchmark
from keras_kd.deploy.proof.evidence import Proof, Row
from keras_kd.deploy.proof.on_device import DeviceTime
from keras_kd.report import Column, Section, Table, Uncertain

RUNTIME_NAMES = {
    "keras": "Keras",
    "litert": "LiteRT",
    "litert_reference": "LiteRT, reference kernels",
    "tflm": "TFLite Micro",
}


def device_sections(check: Check) -> tuple[Section, ...]:
    """What was found for one device, the verdict in every heading's first words."""
    verdict = f"{check.device.title}, {'fits' if check.fits else 'does not fit'}"
    sections = check_report.report(check, with_sources=False).sections
    return tuple(
        Section(f"{verdict}: {section.title}", section.blocks, section.columns)
        for section in sections
    )


def model_tables(proof: Proof) -> Iterator[Table]:
    """Every model on every runtime, and their differences."""
    result = proof.result.measured
    percent = result.metric == "accuracy"
    metric = (
        Column("Accuracy", "%", digits=1, scale=100)
        if percent
        else Column(result.metric or "Metric", digits=4)
    )
    timed = (
        f"Latency: one example on this host, median and 95th percentile of {result.latency_runs} "
        f"runs after {result.warmup_runs} that do not count."
        if result.latency_runs
        else ""
    )
    yield Table(
        columns=(
            Column("Model"),
            Column("Format"),
            Column("Runtime"),
            metric,
            Column("Agreement", "% with float", digits=1, scale=100),
            Column("Size", "bytes"),
            Column("Arena", "bytes"),
            Column("Latency", "ms, host", digits=3),
            Column("p95", "ms, host", digits=3),
        ),
        rows=tuple(_model_row(row) for row in proof.rows),
        note=f"Over {result.examples:,} examples; ± is the standard error over these. Size is the "
        f".tflite file's, or that of a Keras model's weights. {timed}".strip(),
        highlight=len(proof.rows) - 1,
    )
    if proof.differences:
        unit, digits, scale = ("percentage points", 2, 100.0) if percent else ("", 4, 1.0)
        yield Table(
            title=f"Differences in {result.metric}, paired",
            columns=(
                Column("Of"),
                Column("Minus"),
                Column("Difference", unit, digits=digits, scale=scale),
            ),
            rows=tuple(
                (
                    f"{gain.one[0]}, {RUNTIME_NAMES[gain.one[1]]}",
                    f"{gain.other[0]}, {RUNTIME_NAMES[gain.other[1]]}",
                    Uncertain(gain.mean, gain.standard_error),
                )
                for gain in proof.differences
            ),
            note="Both answer the same examples; ± is the standard error of their difference, "
            "which is what other examples would change.",
        )


def form_table(proof: Proof) -> Table:
    """What each model would take on a device."""
    reasons = tuple(f"{form.role}: {form.not_known}." for form in proof.forms if form.not_known)
    return Table(
        title="As files for a device",
        columns=(
            Column("Model"),
            Column("Format"),
            Column("File", "bytes"),
            Column("Multiply-accumulates"),
            Column("Arena in TFLite Micro", "bytes"),
        ),
        rows=tuple(
            (form.role, form.quantization, form.size_bytes, form.macs, form.arena_bytes)
            for form in proof.forms
        ),
        note=" ".join(
            (
                "Teacher and float student as float32 files, which were made for this table.",
                *reasons,
            )
        ),
        highlight=len(proof.forms) - 1,
    )


def time_table(proof: Proof) -> Table:
    """The estimated time of each model on each device, or why there is none."""
    roles = [form.role for form in proof.forms]
    times = iter(proof.times)  # For each device as many as there are models.
    return Table(
        title="Time of one example on the device, estimated",
        columns=(Column("Device"), *(Column(role, "ms", digits=3) for role in roles)),
        rows=tuple(
            (check.device.title, *(_time(time) for time in itertools.islice(times, len(roles))))
            for check in proof.checks
        ),
        note="None was measured: no device was connected. Where there is an estimate, the device's "
        "section says whose it is.",
    )


def _time(time: DeviceTime) -> float | str | None:
    return time.not_known or time.time_ms


def benchmark_table(b: LiteRTBenchmark) -> Table:
    """What LiteRT's own benchmark measured."""
    return Table(
        title="LiteRT's own benchmark, on this host",
        columns=tuple(
            Column(name, "ms", digits=2)
            for name in (
                "To start",
                "First run",
                "Min",
                "Median",
                "Mean",
                "p95",
                "Max",
                "Std. dev.",
            )
        ),
        rows=(
            (
                *(b.init_ms, b.first_ms, b.min_ms, b.median_ms, b.mean_ms, b.p95_ms, b.max_ms),
                b.standard_deviation_ms,
            ),
        ),
        note=f"litert-benchmark: {b.runs} runs after {b.warmup_runs} that do not "
        f"count, on {' and '.join(b.accelerators)} with {b.num_threads} thread"
        f"{'s' * (b.num_threads != 1)}, on random inputs, in steps of {RESOLUTION_MS} ms. A "
        "phone's latency is another.",
    )


def _model_row(row: Row) -> tuple[Any, ...]:
    m = row.measured
    value = None if m.value is None else Uncertain(m.value, m.standard_error)
    place = (row.role, m.quantization, RUNTIME_NAMES[m.runtime])
    costs = (m.size_bytes, m.arena_bytes, m.latency_ms_median, m.latency_ms_p95)
    return (*place, value, m.agreement, *costs)


def layer_table(proof: Proof) -> Table:
    """The error of every op's output."""
    worst = proof.worst_layer
    return Table(
        columns=(
            Column("Layer"),
            Column("Op"),
            Column("Own SQNR", "dB", digits=1),
            Column("SQNR on the device", "dB", digits=1),
            Column("Out of range", "% of the numbers", digits=2, scale=100),
        ),
        rows=tuple(
            (layer_name(one), op_name(one), one.own_sqnr_db, one.sqnr_db, one.out_of_range)
            for one in proof.layers
        ),
        note="SQNR, signal to quantization noise: 10 log10 of the power of the float model's "
        f"numbers over that of the error, over {proof.layer_examples} examples on reference "
        "kernels. Own: of the op alone, on inputs without error; on the device: with the errors "
        "of all ops before it. Out of range: numbers that the tensor cannot hold.",
        highlight=next((i for i, one in enumerate(proof.layers) if one is worst), None),
    )


def layer_name(layer: LayerError) -> str:
    """The Keras layers that an op came from, or its tensor where that is not known."""
    return printable(" + ".join(layer.layers) or layer.tensor)


def op_name(layer: LayerError) -> str:
    """The op that puts the tensor out; the model's inputs have none."""
    return "input" if layer.op is None else printable(layer.op.name)
