"""What a distiller measures of its batches, and says in the logs."""

import keras

from keras_kd.batch import examples_in
from keras_kd.batch_checks import Counters
from keras_kd.features import mask_of
from keras_kd.metrics import NamedMeans, agreement
from keras_kd.terms import DISTILLATION, KERAS_LOGS, TASK, TOTAL, declared_heads


class Logs:
    """The losses of an epoch, how far the student agrees with its teacher, and bad examples.

    A plain object. `means` and `agreement` are metrics, which the distiller tracks.

    Args:
        terms: The distiller's terms.
        teacher_agreement: Whether to measure in how many predictions the two agree.
    """

    def __init__(self, terms, *, teacher_agreement):
        self._terms = terms
        self.means = NamedMeans(
            [TOTAL, TASK, DISTILLATION, *(term.name for term in terms)], name="losses"
        )
        self.agreement = keras.metrics.Mean(name="teacher_agreement") if teacher_agreement else None
        self._counters = {phase: Counters(phase) for phase in ("training", "evaluation")}

    def update(self, values, teacher, outputs, activations):
        """Measures a batch.

        Args:
            values: A dict from names in the logs to scalars.
            teacher: The teacher's `Answer`; None where it was not asked.
            outputs: What of the student's outputs the teacher can be compared to.
            activations: Those behind the flat outputs of teacher and student; None for unknown.

        Returns:
            The names of the logs that there is nothing to say of.
        """
        self.means.update_state(values, examples_in(outputs))
        absent = set(self.means.names) - values.keys()
        if self.agreement is not None and teacher is None:
            absent.add(self.agreement.name)
        elif self.agreement is not None:
            self._update_agreement(teacher, outputs, activations)
        return absent

    def _update_agreement(self, teacher, student_outputs, activations):
        outputs = [keras.tree.flatten(side) for side in (teacher.outputs, student_outputs)]
        declared = declared_heads(self._terms, len(outputs[1]))
        for index, pair in enumerate(zip(*outputs, strict=True)):
            seen = [known and known[index] for known in activations]
            agree = agreement(*pair, *seen, head=declared[index])
            weight = teacher.known_at(agree, mask_of(pair[1]))
            self.agreement.update_state(agree, sample_weight=weight)

    def count(self, phase, counts):
        """Counts what of a batch would spoil a run; see `Counters`.

        Args:
            phase: `"training"` or `"evaluation"`.
            counts: A dict from what is bad to scalars, or None for nothing.
        """
        self._counters[phase].add(counts)

    def raise_if_bad(self):
        """Raises a ValueError if something bad was counted since the last reset."""
        for counters in self._counters.values():
            counters.raise_if_any()

    def reset(self):
        """Sets the counts to 0."""
        for counters in self._counters.values():
            counters.reset()

    def of(self, metrics):
        """Returns the logs: every metric that has seen data, by name.

        Args:
            metrics: The distiller's metrics.

        Raises:
            ValueError: If one of the distiller's own names is there twice.
        """
        logs, own = {}, {*KERAS_LOGS, "teacher_agreement", *(term.name for term in self._terms)}
        for metric in metrics:
            # The compiled metrics stay unbuilt as long as there are no labels.
            if not getattr(metric, "built", True):
                continue
            result = metric.result()
            named = result if isinstance(result, dict) else {metric.name: result}
            twice = named.keys() & logs.keys() & own
            if twice:
                raise ValueError(
                    f"Expected names in the logs that differ. Received twice: {sorted(twice)}. "
                    "Hint: give the loss or the metric another name=."
                )
            logs.update(named)
        # Keras's own name of the total, which its callbacks watch by default.
        logs["loss"] = logs[TOTAL]
        return logs
