"""Which ops of a model go to the Edge TPU together, by the rules alone.

The compiler applies itself to the model as a TFLite delegate (its log says "Restored original
execution plan after delegate application failure", google-coral/edgetpu issue 512), and keeps the
first set of ops that it gets, however small (issue 433: one op of 191). So the sets are those of
TFLite's partitioning (tensorflow/lite/graph_info.cc): they follow from what each op waits for, not
from the order in the file. Leading ops that are not supported stand before the set; what waits for
an op behind the set is on the CPU, supported or not.

An op of which no rule tells is "unknown". The model is then judged twice, with all such ops mapped
and with none, and each op for which the two differ is "unknown" as well; where both say the same,
that is certain.
"""

from __future__ import annotations

from collections.abc import Mapping

from keras_kd.deploy import inspect
from keras_kd.deploy.findings import Placement
from keras_kd.deploy.rules.edgetpu_limits import Refusal
from keras_kd.deploy.rules.edgetpu_ops import refusal

ONE_SUBGRAPH = "More than one subgraph is not supported"
NEWEST_RUNTIME = 14  # google-coral/libedgetpu at e35aed1, api/runtime_version.h


def predicted_placements(
    info: inspect.ModelInfo, *, runtime_version: int = NEWEST_RUNTIME
) -> tuple[tuple[Placement, ...], dict[int, Refusal]]:
    """Where each op would run, by the rules alone.

    Args:
        info: A model that was not compiled yet.
        runtime_version: Of the Edge TPU runtime on the device.

    Returns:
        A `Placement` for each op, and what keeps an op by itself off the Edge TPU, by the op's
        place in `info.ops`.
    """
    refusals = {
        place: found
        for place, op in enumerate(info.ops)
        if (found := refusal(info, op, runtime_version=runtime_version)) is not None
    }
    most = _first_set(info, {place for place, found in refusals.items() if found.is_certain})
    least = _first_set(info, set(refusals))
    placed = []
    for place, op in enumerate(info.ops):
        own = refusals.get(place)
        if place in most and place in least:
            placed.append(Placement(op, "edgetpu"))
            continue
        target = "unknown" if place in most | least else "cpu"
        tells = own is not None and (own.is_certain or target == "unknown")
        reason = _reason(own) if own is not None and tells else _waiting(info, place, refusals)
        placed.append(Placement(op, target, reason))
    return tuple(placed), refusals


def _first_set(info: inspect.ModelInfo, refused: set[int]) -> set[int]:
    """Places of the first set of ops that TFLite's partitioning hands to a delegate.

    Sets alternate between supported and refused; the first op that is ready begins one, and takes
    with it all of its kind that are ready then or become so (graph_info.cc, UpdateNode).
    """
    pending = [place for place, op in enumerate(info.ops) if op.subgraph == 0]
    missing = {i for place in pending for i in info.ops[place].outputs}
    while pending:
        kind, taken = None, set()
        grows = True
        while grows:
            grows = False
            for place in pending:
                if place in taken or missing.intersection(info.ops[place].inputs):
                    continue
                if kind is None:
                    kind = place not in refused
                if kind == (place not in refused):
                    taken.add(place)
                    missing.difference_update(info.ops[place].outputs)
                    grows = True
        if kind or not taken:
            return taken
        pending = [place for place in pending if place not in taken]
    return set()


def _reason(found: Refusal) -> str:
    return f"{found.status}: {found.detail}"


def _waiting(info: inspect.ModelInfo, place: int, refusals: Mapping[int, Refusal]) -> str:
    """Names the ops, nearest first, that keep an op out of the set."""
    makers = {
        i: p for p, op in enumerate(info.ops) if op.subgraph == 0 for i in op.outputs if i >= 0
    }
    front, seen = [place], {place}
    blocking: list[int] = []
    while front and not blocking:
        before = {makers[i] for p in front for i in info.ops[p].inputs if i in makers} - seen
        seen |= before
        blocking = sorted(before & refusals.keys())
        front = sorted(before)
    named = ", ".join(f"{info.ops[p].name} #{info.ops[p].index}" for p in blocking[:3])
    return f"{ONE_SUBGRAPH}: it waits for {named}" if named else ONE_SUBGRAPH
