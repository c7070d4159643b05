"""The pictures of a proof: accuracy, size, memory, error of each layer, time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from keras_kd.deploy.findings import printable
from keras_kd.deploy.layer_error import LayerError
from keras_kd.deploy.litert_benchmark import RESOLUTION_MS
from keras_kd.deploy.proof.evidence import CONVERTED, FLOAT, TEACHER, Proof, Row, own_error
from keras_kd.deploy.proof.on_device import estimated_times
from keras_kd.deploy.proof.tables import RUNTIME_NAMES, op_name
from keras_kd.report import Bar, BarPlot

# A thing has one color in every picture; what goes over a limit, or is worst, has `_ALARM`.
COLORS = {TEACHER: 5, FLOAT: 2, CONVERTED: 0}
_ALARM = 1
# A picture with more layers is read no more; the table has them all.
MOST_BARS = 24


def pictures(proof: Proof) -> Iterator[BarPlot]:
    """Those that there are numbers for."""
    if proof.result.measured.value is not None:
        yield _accuracy_plot(proof)
    yield _size_plot(proof)
    memories = tuple(_memory_bars(proof))
    if memories:
        yield BarPlot(
            "Memory that it takes",
            "% of what the device has",
            memories,
            limit=100.0,
            limit_label="all there is",
            x_max=150.0,
            note="Flash and RAM with what runtime and application take beside the model, where "
            "the device's description says so.",
        )
    if proof.result.measured.latency_ms_median is not None:
        yield _latency_plot(proof)
    times = tuple(_device_times(proof))
    if times:
        yield BarPlot(
            "Time of one example on the device, estimated",
            "milliseconds",
            times,
            note="Not measured on a device. Of the converted student alone: the table says why "
            "there is none of the others.",
        )


def _accuracy_plot(proof: Proof) -> BarPlot:
    measured = proof.result.measured
    percent = measured.metric == "accuracy"
    scale = 100.0 if percent else 1.0
    bars = []
    for row in proof.rows:
        value, error = row.measured.value, row.measured.standard_error
        if value is None:
            continue
        digits = ".1f" if percent else ".4g"
        spread = "" if error is None else f" ± {error * scale:{digits}}"
        bars.append(
            Bar(
                _name(row),
                value * scale,
                None if error is None else error * scale,
                f"{value * scale:{digits}}{spread}",
                COLORS[row.role],
            )
        )
    return BarPlot(
        f"{(measured.metric or '').capitalize()} on {measured.examples:,} examples",
        f"{measured.metric} (%)" if percent else str(measured.metric),
        tuple(bars),
        dots=True,
        note="Bars: one standard error over the examples. The models answer the same examples, so "
        "the differences are known better than these bars say: see the table.",
    )


def _size_plot(proof: Proof) -> BarPlot:
    first = [row for i, row in enumerate(proof.rows) if row.role not in _roles(proof.rows[:i])]
    return BarPlot(
        "Size",
        "kilobytes",
        tuple(
            Bar(
                row.role,
                row.measured.size_bytes / 1000,
                label=_kilobytes(row.measured.size_bytes),
                color=COLORS[row.role],
            )
            for row in first
        ),
        note="The converted student's file; the float32 weights of the others.",
    )


def _roles(rows: tuple[Row, ...]) -> set[str]:
    return {row.role for row in rows}


def _memory_bars(proof: Proof) -> Iterator[Bar]:
    for check in proof.checks:
        for budget in check.budgets:
            name = f"{check.device.name}: {budget.name}"
            if not budget.available_bytes:
                continue
            if budget.used_bytes is None:
                yield Bar(name, None, label=f"not known, of {_kilobytes(budget.available_bytes)}")
                continue
            share = 100.0 * budget.used_bytes / budget.available_bytes
            yield Bar(
                name,
                share,
                label=f"{_kilobytes(budget.used_bytes)} of {_kilobytes(budget.available_bytes)}",
                color=_ALARM if share > 100.0 else COLORS[CONVERTED],
            )


def layer_plots(proof: Proof) -> tuple[BarPlot, BarPlot]:
    """Each op's own error, and the error as the device has it; of very many ops the worst."""
    layers, left_out = list(proof.layers), ""
    if len(layers) > MOST_BARS:
        kept = {id(one) for one in sorted(layers, key=own_error)[:MOST_BARS]}
        left_out = f" The {MOST_BARS} worst of {len(layers)}; the table has all."
        layers = [one for one in layers if id(one) in kept]
    names = _bar_names(layers)
    worst = proof.worst_layer
    over = f"Over {proof.layer_examples} examples, from the input to the output."

    def bars(numbers: list[float | None]) -> tuple[Bar, ...]:
        return tuple(
            Bar(
                name,
                None if number is None or math.isinf(number) else number,
                label=_decibels(number),
                color=_ALARM if layer is worst else COLORS[CONVERTED],
            )
            for name, layer, number in zip(names, layers, numbers, strict=True)
        )

    return (
        BarPlot(
            "What each layer does to its signal",
            "signal to quantization noise (dB)",
            bars([layer.own_sqnr_db for layer in layers]),
            note=f"{over} Each layer alone, on inputs without error. At 20 dB the error is a "
            f"tenth of the signal, at 40 dB a hundredth: more is better.{left_out}",
        ),
        BarPlot(
            "What is left of the signal behind it",
            "signal to quantization noise (dB)",
            bars([layer.sqnr_db for layer in layers]),
            note=f"{over} As the device has it, with the errors of all layers before. +2: two more "
            "layers that became one op with it.",
        ),
    )


def _bar_names(layers: Sequence[LayerError]) -> list[str]:
    """A short name for each op: its first layer, with the op where a layer has several."""
    firsts = [printable((layer.layers or (layer.tensor,))[0]) for layer in layers]
    names = []
    for number, (first, layer) in enumerate(zip(firsts, layers, strict=True)):
        repeated = first in firsts[:number]
        more = f" +{len(layer.layers) - 1}" if len(layer.layers) > 1 else ""
        names.append(f"{first}, {op_name(layer).lower()}" if repeated else f"{first}{more}")
    return names


def _decibels(number: float | None) -> str:
    if number is None:
        return "not run alone"
    if math.isinf(number):
        return "exact" if number > 0 else "no signal"
    return f"{number:.1f}"


def _latency_plot(proof: Proof) -> BarPlot:
    times = [
        (_name(row), row.measured.latency_ms_median, row.measured.latency_ms_p95, COLORS[row.role])
        for row in proof.rows
    ]
    # Below some ten of its steps the tool's rounding is most of what it says.
    if proof.benchmark is not None and proof.benchmark.median_ms >= 10 * RESOLUTION_MS:
        name = f"{proof.result.measured.quantization}, litert-benchmark"
        times.append((name, proof.benchmark.median_ms, proof.benchmark.p95_ms, COLORS[CONVERTED]))
    measured = proof.result.measured
    return BarPlot(
        "Latency of one example on this host",
        "milliseconds, median",
        tuple(
            Bar(name, median, label=f"{median:.3g} (p95 {p95:.3g})", color=color)
            for name, median, p95, color in times
            if median is not None and p95 is not None
        ),
        note=f"Median of {measured.latency_runs} runs after {measured.warmup_runs} that do not "
        "count. On this computer's processor; a board's latency is another.",
    )


def _device_times(proof: Proof) -> Iterator[Bar]:
    for check in proof.checks:
        times = estimated_times(check)
        for name, value in times:
            shown = check.device.name if len(times) == 1 else f"{check.device.name}: {name}"
            yield Bar(shown, value, hollow=True)


def _name(row: Row) -> str:
    runtime = RUNTIME_NAMES[row.measured.runtime]
    return row.role if row.role != CONVERTED else f"{row.measured.quantization}, {runtime}"


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.4g} kB" if count < 1e7 else f"{count / 1e6:,.4g} MB"
