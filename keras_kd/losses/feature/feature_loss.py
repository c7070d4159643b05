"""The base of the losses that compare a layer of the student with one of the teacher."""

import copy

import keras

from keras_kd.losses import base
from keras_kd.numerics import at_least_float32, without_padding
from keras_kd.projectors import check_same_shape, make_projector

AUTO = "auto"


class FeatureLoss(base.DistillationLoss):
    """What layers of the teacher say to as many layers of the student, pair by pair.

    Subclasses give `compare`, and `match` or `make_part`. The values of the pairs are summed.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths.
        student_layer_name: As many in the student.
        projector: `"auto"` to make what `match` asks for, None for nothing, or a Keras layer of
            one's own from the student's feature; for several pairs a list of these.
        name: Name in the logs.

    Attributes:
        match: What a projector has to make equal: `"shape"`, `"channels"`, or None for nothing,
            where the mathematics compares features of different shapes.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is unknown
            or no projector leads from the student's shape to the teacher's.
    """

    match: str | None = "shape"

    def __init__(self, teacher_layer_name, student_layer_name, *, projector=AUTO, name=None):
        super().__init__(
            teacher_layer_name=teacher_layer_name, student_layer_name=student_layer_name, name=name
        )
        self._several = isinstance(teacher_layer_name, list | tuple)
        pairs = self._pairs(teacher_layer_name), self._pairs(student_layer_name)
        if isinstance(student_layer_name, list | tuple) != self._several or (
            len(pairs[0]) != len(pairs[1])
        ):
            raise ValueError(
                "Expected as many layers of the teacher as of the student. Received: "
                f"{teacher_layer_name!r} and {student_layer_name!r}."
            )
        given = projector if isinstance(projector, list | tuple) else [projector] * len(pairs[0])
        if len(given) != len(pairs[0]):
            raise ValueError(
                f"Expected one projector for each of {len(pairs[0])} pairs of layers. "
                f"Received: {len(given)}."
            )
        for entry in given:
            if not (entry is None or entry == AUTO or isinstance(entry, keras.Layer)):
                raise ValueError(
                    f"Expected projector to be 'auto', None or a Keras layer. Received: {entry!r}"
                )
        self._projectors = tuple(given)

    def compare(self, teacher, student, context, index):
        """Returns the loss of each example for one pair of layers.

        Args:
            teacher: The teacher's feature, float32; receives no gradient.
            student: The student's, behind its projector; float32.
            context: A `Context`; `context.mask(index)` is the mask of the student's feature.
            index: The number of the pair.

        Returns:
            Shape [batch].
        """
        raise NotImplementedError(f"{type(self).__name__} must implement compare().")

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the trainable layer in front of `compare` for one pair; None where none is needed.

        Args:
            student_shape: Shape of the student's feature, [batch, ...positions, channels].
            teacher_shape: Shape of the teacher's.
            name: Name for the layer.

        Returns:
            A built, serializable Keras layer that is called with the student's feature.
        """
        if self.match is None:
            return None
        if self.match == "channels":
            teacher_shape = (*student_shape[:-1], teacher_shape[-1])
        return make_projector(student_shape, teacher_shape, name)

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the pairs; shape [batch]."""
        pairs = self.features(teacher_outputs, student_outputs, context)
        return sum(self.compare(*pair, context, index) for index, pair in enumerate(pairs))

    def features(self, teacher_outputs, student_outputs, context):
        """Returns what `compare` gets for each pair of layers, a list of (teacher's, student's).

        Args:
            teacher_outputs: As `per_example` gets them.
            student_outputs: The same of the student.
            context: A `Context`.
        """
        sides = self._sides(teacher_outputs), self._sides(student_outputs)
        pairs = []
        for index, (teacher, student) in enumerate(zip(*sides, strict=True)):
            mask = context.mask(index)
            teacher, student = self.align(
                without_padding(at_least_float32(teacher), mask), without_padding(student, mask)
            )
            projector = self._projectors[index]
            if isinstance(projector, keras.Layer):
                # Keras takes `training` back from a layer whose `call` has no such argument.
                student = projector(student, training=context.training)
            pairs.append((keras.ops.stop_gradient(teacher), at_least_float32(student)))
        return pairs

    def align(self, teacher, student):
        """Returns both features of a pair as the projector is to meet them: as they are.

        Args:
            teacher: The teacher's feature, float32.
            student: The student's.
        """
        return teacher, student

    def connect(self, ends):
        """Makes or builds the projectors; see `DistillationLoss.connect`.

        Raises:
            ValueError: If shapes do not meet and no projector can make them.
        """
        connected = copy.copy(self)
        if ends.student is None:
            return connected
        students, made = self._sides(ends.student), []
        teachers = [None] * len(students) if ends.teacher is None else self._sides(ends.teacher)
        for index, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            projector = self._projectors[index]
            if projector == AUTO and teacher is not None:
                suffix = f"_{index}" if self._several else ""
                projector = self.make_part(
                    tuple(student.shape), tuple(teacher.shape), f"{self.name}_projector{suffix}"
                )
            elif isinstance(projector, keras.Layer) and not projector.built:
                projector.build(student.shape)
            if self.match == "shape" and teacher is not None:
                shape = student.shape
                if projector is not None:
                    shape = projector.compute_output_shape(tuple(shape))
                check_same_shape(shape, teacher.shape, "projector='auto' makes them meet.")
            made.append(projector)
        connected._projectors = tuple(made)
        return connected

    def is_connected(self):
        """Returns whether every projector is made and built, where one is needed."""
        return all(p is None or (p != AUTO and p.built) for p in self._projectors)

    @property
    def parts(self):
        """The projectors, or what `make_part` made in their place."""
        return tuple(p for p in self._projectors if isinstance(p, keras.Layer))

    def get_config(self):
        """Returns the arguments of the constructor."""
        projectors = [
            keras.saving.serialize_keras_object(p) if isinstance(p, keras.Layer) else p
            for p in self._projectors
        ]
        return {**super().get_config(), "projector": projectors}

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        projectors = [
            # Keras empties the configuration of a functional model that it deserializes.
            keras.saving.deserialize_keras_object(copy.deepcopy(p)) if isinstance(p, dict) else p
            for p in config["projector"]
        ]
        return cls(**{**config, "projector": projectors})

    def _pairs(self, path):
        return list(path) if isinstance(path, list | tuple) else [path]

    def _sides(self, structure):
        return list(structure) if self._several else [structure]
