"""What was found of a student, as a report: pictures first, the tables behind them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

from keras_kd.deploy import check_report
from keras_kd.deploy.measure import Measurement
from keras_kd.deploy.proof.evidence import CONVERTED, Difference, Proof, own_error
from keras_kd.deploy.proof.pictures import layer_plots, pictures
from keras_kd.deploy.proof.tables import (
    RUNTIME_NAMES,
    benchmark_table,
    device_sections,
    form_table,
    layer_name,
    layer_table,
    model_tables,
    op_name,
    time_table,
)
from keras_kd.report import Facts, Report, Section

VERSIONS = (
    *("tensorflow", "keras", "ai-edge-litert", "tflite-micro", "ethos-u-vela"),
    "numpy",
)


def report_of(proof: Proof) -> Report:
    """The report of what `gather` found."""
    sections = [Section("At a glance", tuple(pictures(proof)), columns=2)]
    if proof.layers:
        sections.append(Section("Which layer the conversion hurts", layer_plots(proof), columns=2))
    benchmark = [] if proof.benchmark is None else [benchmark_table(proof.benchmark)]
    times = [time_table(proof)] if proof.checks else []
    sections += [
        Section("Models", (*model_tables(proof), *benchmark)),
        Section("On a device", (form_table(proof), *times)),
        *([Section("Error of each layer", (layer_table(proof),))] if proof.layers else []),
        *(section for check in proof.checks for section in device_sections(check)),
        Section("How it was measured", (Facts(tuple(_method(proof).items())),)),
        Section("What was not run", (Facts(tuple(_not_run(proof))),)),
    ]
    return Report(
        title=f"{proof.label}: what it is worth, and where it runs",
        summary=" ".join(_summary(proof)),
        sections=tuple(sections),
        data=_data(proof),
    )


def _summary(proof: Proof) -> Iterator[str]:
    measured = proof.result.measured
    where = RUNTIME_NAMES[measured.runtime]
    subject = f"The {measured.quantization} student of {measured.size_bytes:,} bytes"
    if measured.value is not None:
        number = _metric_text(measured)
        yield f"{subject} has {number} on {where}, over {measured.examples:,} examples."
    else:
        yield f"{subject} ran {measured.examples:,} examples on {where}."
    for gain in proof.differences:
        if gain.one == (CONVERTED, measured.runtime):
            yield f"{_change(gain, measured)}."
    if measured.value is None and measured.agreement is not None:
        yield f"It names the float student's class in {100 * measured.agreement:.1f} % of them."
    fit = [check.device.title for check in proof.checks if check.fits]
    not_fit = [check.device.title for check in proof.checks if not check.fits]
    if fit:
        yield f"It fits {_listed(fit)}."
    if not_fit:
        yield f"It does not fit {_listed(not_fit)}."
    worst = proof.worst_layer
    if worst is not None:
        decibels = f"{own_error(worst):.1f} dB"
        yield f"The layer that conversion hurts most is {layer_name(worst)}, {decibels}."


def _change(gain: Difference, measured: Measurement) -> str:
    percent = measured.metric == "accuracy"
    scale, digits, unit = (100, 2, " percentage points") if percent else (1, 4, "")
    size = f"{scale * gain.mean:+.{digits}f} ± {scale * gain.standard_error:.{digits}f}{unit}"
    clear = abs(gain.mean) > 2 * gain.standard_error
    doubt = "" if clear else ", which is within two standard errors of nothing"
    return f"Converting to {measured.quantization} changed that by {size} (paired){doubt}"


def _metric_text(measured: Measurement) -> str:
    name = measured.metric or ""
    if name == "accuracy":
        error = "" if measured.standard_error is None else f" ± {100 * measured.standard_error:.1f}"
        return f"an accuracy of {100 * (measured.value or 0.0):.1f}{error} %"
    error = "" if measured.standard_error is None else f" ± {measured.standard_error:.4g}"
    return f"a {name} of {measured.value:.4g}{error}"


def _method(proof: Proof) -> dict[str, str]:
    measured = proof.result.measured
    facts = {
        "Examples": f"{measured.examples:,}, the same for every row",
        "Runtimes": ", ".join(
            dict.fromkeys(RUNTIME_NAMES[row.measured.runtime] for row in proof.rows)
        ),
    }
    if any(row.measured.runtime == "tflm" for row in proof.rows):
        facts["TFLite Micro"] = (
            "ran as a program on this computer, with its reference kernels: a board with kernels "
            "of its own (CMSIS-NN, an NPU) may round otherwise"
        )
    if measured.latency_runs:
        facts["Latency"] = (
            f"{measured.latency_runs} runs of one example after {measured.warmup_runs} that do "
            "not count; Keras through tf.function, a .tflite on one thread"
        )
    if proof.layers:
        facts["Layers"] = (
            f"each op beside its float twin, on reference kernels, {proof.layer_examples} examples"
        )
    return {
        **facts,
        "Machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "Versions": ", ".join([f"Python {platform.python_version()}", *_versions()]),
    }


def _versions() -> Iterator[str]:
    for name in VERSIONS:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def _not_run(proof: Proof) -> Iterator[tuple[str, str]]:
    yield "A device", "none was connected: no latency and no energy of a board is in this report"
    for reason in proof.not_run:
        name, _, rest = reason.partition(": ")
        yield name, rest
    if proof.checks:
        yield "For each device", "what its section says was not run"


def _data(proof: Proof) -> dict[str, Any]:
    """What a program reads; names that stay."""
    return {
        "label": proof.label,
        "rows": [{"role": row.role, **dataclasses.asdict(row.measured)} for row in proof.rows],
        "differences": [dataclasses.asdict(gain) for gain in proof.differences],
        "devices": [check_report.data(check) for check in proof.checks],
        "device_forms": [dataclasses.asdict(form) for form in proof.forms],
        "device_times": [dataclasses.asdict(time) for time in proof.times],
        "layers": [
            {
                "op": op_name(one),
                "op_index": None if one.op is None else one.op.index,
                "tensor": one.tensor,
                "layers": list(one.layers),
                "sqnr_db": one.sqnr_db,
                "own_sqnr_db": one.own_sqnr_db,
                "out_of_range": one.out_of_range,
            }
            for one in proof.layers
        ],
        "litert_benchmark": None
        if proof.benchmark is None
        else dataclasses.asdict(proof.benchmark),
        "layer_examples": proof.layer_examples,
        "not_run": list(proof.not_run),
    }


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
