"""Jacobian matching: the student's answer changes with the input as its teacher's does."""

import copy

import keras
import numpy as np
from keras import layers, ops

from keras_kd import heads
from keras_kd.gradients import input_gradient
from keras_kd.losses import registry
from keras_kd.losses.feature.maps import missing
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.settle import AUTO, activation_of
from keras_kd.numerics import at_least_float32, l2_normalize

_LOGITS = ("label", "top")


def jacobian(*, teacher, student):
    """Mean squared difference of L2-normalized input gradients, per example.

    mean (student / ||student|| - teacher / ||teacher||)^2 over all that an input holds.

    Args:
        teacher: Gradient of a number of the teacher by its input, shape [batch, ...]; receives no
            gradient.
        student: The same of the student, same shape.

    Returns:
        Shape [batch].

    Reference: Srinivas and Fleuret, arXiv:1803.00443.
    """
    teacher, student = (
        l2_normalize(ops.reshape(at_least_float32(side), (ops.shape(side)[0], -1)))
        for side in (ops.stop_gradient(teacher), student)
    )
    return ops.mean(ops.square(student - teacher), axis=-1)


@registry.method(
    "jacobian",
    title="Jacobian matching",
    kind="feature",
    needs="labels, floating-point inputs; a second pass",
    reference="arXiv:1803.00443",
)
class JacobianMatching(LogitsLoss):
    """The gradient of one logit by the input is the student's as it is the teacher's: `jacobian`.

    The cost: a second forward and backward pass of both models in every step, and the student's is
    differentiated once more. It is the only method with a second pass. That pass changes no state:
    batch normalization takes the statistics of the batch again but keeps its averages, dropout
    draws another mask, `add_loss` adds nothing.

    What it cannot do, and refuses: inputs that are several tensors or integers; models that the
    distiller gives other inputs than the batch's, by `teacher_preprocessing` or
    `student_preprocessing`; outputs with positions.

    Args:
        logit: `"label"` for the logit of the label's class, `"top"` for the class of the teacher's
            largest logit, which needs no labels.
        output: For models with several outputs the key or index of the one to compare.
        teacher_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layer.
        student_outputs: The same for the student.
        name: Name in the logs.

    Raises:
        ValueError: If an option is unknown; when the distiller is made, if an output is neither
            logits nor softmax; on the first batch, for what it cannot do.

    Example:
        >>> keras_kd.losses.get("jacobian", logit="top")

    Reference: Srinivas and Fleuret, arXiv:1803.00443.
    """

    arguments = ()

    def __init__(
        self,
        *,
        logit="label",
        output=None,
        teacher_outputs=AUTO,
        student_outputs=AUTO,
        name=None,
    ):
        super().__init__(
            output=output,
            teacher_outputs=teacher_outputs,
            student_outputs=student_outputs,
            name=name or "jacobian",
        )
        if logit not in _LOGITS:
            raise ValueError(f"Expected logit to be one of {_LOGITS}. Received: {logit!r}")
        self.logit = logit
        self.needs = frozenset({"labels"} if logit == "label" else ())
        # The two models: referred to, never tracked, saved or changed.
        self._models = (None, None)

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, shape [batch].

        Raises:
            ValueError: If the loss was not connected, or for what it cannot do (see the class).
        """
        if None in self._models or context.inputs is None:
            raise missing(self.name)
        self._check(context, student_outputs)
        teacher = self._logits(teacher_outputs, self.teacher_outputs)
        if self.logit == "label":
            classes = self.labels(context, teacher)
        else:
            classes = ops.argmax(teacher, axis=-1)
        chosen = ops.one_hot(classes, teacher.shape[-1], dtype=teacher.dtype)
        sides = (
            (self._models[0], teacher_outputs, self.teacher_outputs, False),
            (self._models[1], student_outputs, self.student_outputs, context.training),
        )
        teacher, student = (
            self._gradient(*side, chosen=chosen, inputs=ops.convert_to_tensor(context.inputs))
            for side in sides
        )
        return jacobian(teacher=teacher, student=student)

    def connect(self, ends):
        """Keeps the two models, settles what they end in; see `LogitsLoss.connect`.

        Raises:
            ValueError: If an output is neither logits nor softmax.
        """
        connected = copy.copy(super().connect(ends))
        connected._models = ends.teacher_model, ends.student_model
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "logit": self.logit}

    def _gradient(self, model, answer, form, training, *, chosen, inputs):
        """Returns the gradient of the chosen logits of a model by its inputs."""
        # A layer around the model: what is called first clears its `add_loss` terms, and those of
        # the step's own pass have to stay.
        around = layers.Lambda(lambda x: model(x, training=training), dtype=inputs.dtype)

        def logit(x):
            with keras.StatelessScope():
                outputs = around(x)
            if not training:
                self._check_answer(model, answer, outputs)
            return ops.sum(self._logits(outputs, form) * chosen, axis=-1)

        return input_gradient(logit, inputs)

    def _logits(self, outputs, form):
        return heads.logits(self.pick(outputs), activation_of(heads.SOFTMAX, form))

    def _check(self, context, outputs):
        inputs = context.inputs
        if keras.tree.is_nested(inputs):
            raise ValueError(
                f"Expected one input tensor for '{self.name}'. Received a structure of them. "
                "Hint: merge them into one Input of the two models."
            )
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if not keras.backend.is_float_dtype(dtype):
            raise ValueError(
                f"Expected floating-point inputs for '{self.name}', which takes the gradient by "
                f"them. Received: {dtype}. Hint: cast images to float32 in the data; token "
                "numbers have no gradient."
            )
        rank = len(self.pick(outputs).shape)
        if rank != 2 or context.position_weight is not None:
            raise ValueError(
                f"Expected outputs [batch, classes] and one sample weight an example for "
                f"'{self.name}'. Received outputs of rank {rank}, or a weight for each position."
            )

    def _check_answer(self, model, answer, again):
        """Refuses a model that was asked something else than the inputs, where values tell."""
        answer, again = self.pick(answer), self.pick(again)
        if not (hasattr(answer, "numpy") and hasattr(again, "numpy")):
            return
        pair = [np.asarray(side.numpy(), "float64") for side in (answer, again)]
        # The same arithmetic twice; half precision may round in another order.
        if not np.allclose(*pair, rtol=1e-2, atol=1e-2 * np.abs(pair[0]).max()):
            raise ValueError(
                f"Expected '{model.name}' to take the batch's inputs as they are for "
                f"'{self.name}'. Received other answers than in the step itself. Hint: make the "
                "preprocessing a layer of the model, not an argument of the distiller."
            )
