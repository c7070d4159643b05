"""The student's own moving average as its teacher."""

import copy

import keras
from keras import ops

from keras_kd import heads, schedules
from keras_kd.features import FeatureReader
from keras_kd.teachers.base import Answer, Teacher


def moving_average(*, average, value, decay):
    """The next moving average: decay * average + (1 - decay) * value.

    Args:
        average: The last one, any shape.
        value: The same shape.
        decay: In [0, 1], a float or a scalar tensor.

    Returns:
        The same shape.

    Reference: Tarvainen and Valpola, arXiv:1703.01780, equation 1.
    """
    # This form leaves an average alone that the value equals.
    return average + (1.0 - decay) * (value - average)


@keras.saving.register_keras_serializable(package="keras_kd")
class MovingAverage(Teacher):
    """A mean teacher: the student with the moving average of its weights.

    theta' = decay * theta' + (1 - decay) * theta after each step, from the student's first weights
    on. The averages are kept in float32 at least. They are saved and restored with the distiller
    and are no part of the student; `averaged` makes a model of them, which is often the better one.
    Statistics of batch normalization are averaged like weights; the paper does not say. It is asked
    in inference mode: the paper leaves the teacher's dropout and noise on.

    Args:
        decay: In [0, 1), a float or a schedule. The paper takes 0.99 at first, then 0.999:
            `schedules.Piecewise([steps], [0.99, 0.999])`.
        warm_up: Whether decay is at most 1 - 1 / (step + 1), so that the first weights are
            forgotten at once, as in the authors' code.
        name: What messages call it.

    Raises:
        ValueError: If the decay is out of range; when a distiller is made, if the student is not
            built.

    Example:
        >>> teacher = keras_kd.teachers.MovingAverage(0.999)
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(1.0))
        >>> distiller.fit(x_train, y_train, epochs=10)
        >>> distiller.teacher.averaged().save("averaged.keras")

    Reference: Tarvainen and Valpola, arXiv:1703.01780, section 2.
    """

    needs_distiller = True
    may_be_attached = False
    # At first it knows as little as the student.
    tells_classes = False

    def __init__(self, decay=0.999, *, warm_up=True, name="moving_average"):
        schedules.checked("decay", decay)
        if not schedules.is_schedule(decay) and decay >= 1.0:
            raise ValueError(f"Expected decay in [0, 1). Received: {decay!r}")
        self.decay, self.warm_up, self.name = decay, warm_up, name
        self._student = self._reader = None

    def connect(self, *, paths, student):
        """Returns a teacher that averages this student's weights; see `Teacher.connect`.

        One that averages them already goes on with its averages.
        """
        if not student.built:
            raise ValueError(
                f"Expected a student with weights to average. Received: '{student.name}', which is "
                "not built. Hint: student.build(...), or call it once."
            )
        connected = copy.copy(self)
        if self._student is not student:
            connected._student, connected.state = student, _Averages(student.weights, self.name)
        connected._reader = FeatureReader(student, paths, role="teacher")
        return connected

    def ask(self, batch):
        """Returns the `Answer` of the averaged student."""
        pairs = [
            (variable, ops.cast(average, variable.dtype))
            for variable, average in zip(self._student.weights, self.state.averages, strict=True)
        ]
        with keras.StatelessScope(state_mapping=pairs):
            return Answer(*self._reader(batch.inputs, training=False))

    def after_step(self, step):
        """Takes the student's weights into the averages."""
        decay = ops.cast(schedules.value_at(self.decay, step), "float32")
        if self.warm_up:
            decay = ops.minimum(decay, 1.0 - 1.0 / (ops.cast(step, "float32") + 1.0))
        self.state.take(self._student.weights, decay)

    def averaged(self):
        """Returns a model like the student with the averaged weights."""
        model = keras.models.clone_model(self._student)
        model.set_weights([ops.convert_to_numpy(average) for average in self.state.averages])
        return model

    def symbolic(self):
        """Returns (outputs, features) as far as the student's graph tells them."""
        features = self._reader.features if self._reader.paths else {}
        return heads.symbolic_outputs(self._student), features

    def activations(self):
        """Returns the activation behind each of the student's outputs."""
        return heads.activations(self._student)

    def get_config(self):
        """Returns the arguments of the constructor."""
        decay = schedules.serialize(self.decay)
        return {"decay": decay, "warm_up": self.warm_up, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """Makes the teacher from what `get_config` gave."""
        return cls(**{**config, "decay": schedules.deserialize(config["decay"])})

    def describe(self):
        """Returns what is averaged, and how."""
        decay = self.decay
        decay = type(decay).__name__ if schedules.is_schedule(decay) else f"{decay:g}"
        return f"'{self.name}', the student's moving average, decay {decay}"


class _Averages(keras.layers.Layer):
    """Holds the averages of a model's weights, as weights of its own that nothing trains."""

    def __init__(self, variables, name):
        super().__init__(name=name, trainable=False)
        self.averages = [self._like(index, variable) for index, variable in enumerate(variables)]
        self.built = True

    def _like(self, index, variable):
        average = self.add_weight(
            name=f"average_{index}",
            shape=variable.shape,
            dtype=_at_least_float32(variable.dtype),
            trainable=False,
            # Every replica computes the same.
            aggregation="only_first_replica",
        )
        average.assign(variable)
        return average

    def take(self, variables, decay):
        """Moves the averages towards the variables."""
        for average, variable in zip(self.averages, variables, strict=True):
            if not keras.backend.is_float_dtype(average.dtype):
                average.assign(variable)
                continue
            value = ops.cast(variable, average.dtype)
            decay = ops.cast(decay, average.dtype)
            average.assign(moving_average(average=average, value=value, decay=decay))


def _at_least_float32(dtype):
    return "float32" if dtype in ("float16", "bfloat16") else dtype
