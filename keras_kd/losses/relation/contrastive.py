"""Contrastive representation distillation: what it remembers, and the loss."""

import copy
import math

import keras
from keras import layers, ops

from keras_kd.losses import base, registry
from keras_kd.losses.one_part import OnePart
from keras_kd.losses.relation.contrast import (
    contrast_scores,
    log_normalizer,
    noise_contrast,
    updated_bank,
)
from keras_kd.losses.relation.relation_loss import (
    check_one_output,
    number,
    positive_integer,
    unpadded,
)
from keras_kd.losses.relation.rows import flat_rows
from keras_kd.numerics import l2_normalize, mean_over_positions
from keras_kd.replicas import with_changes_of_all


@keras.saving.register_keras_serializable(package="keras_kd")
class ContrastMemory(layers.Layer):
    """The trained embeddings of both sides, and what is remembered of every example.

    Its state is a bank of embeddings for each side, the constants Z and the state of its random
    numbers. It changes in training alone; evaluation draws the same negatives for every batch.

    Args:
        n_data: Number of examples in the data: two banks of n_data * dim numbers.
        teacher_size: Numbers in the teacher's feature of an example.
        student_size: The same of the student.
        negatives: K, how many negatives an example has.
        dim: Size of the embeddings.
        temperature: tau > 0.
        momentum: What is kept of a remembered embedding, in [0, 1].
        seed: Seed of the banks and of the negatives.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(
        self,
        n_data,
        teacher_size,
        student_size,
        *,
        negatives,
        dim,
        temperature,
        momentum,
        seed,
        **kwargs,
    ):
        # What is remembered is never rounded to the student's half precision.
        super().__init__(**{"dtype": "float32", **kwargs})
        self.n_data = n_data
        self.teacher_size = teacher_size
        self.student_size = student_size
        self.negatives = negatives
        self.dim = dim
        self.temperature = temperature
        self.momentum = momentum
        self.seed = seed
        self.teacher_embedding = layers.Dense(dim, dtype="float32", name="teacher_embedding")
        self.student_embedding = layers.Dense(dim, dtype="float32", name="student_embedding")
        self.teacher_embedding.build((None, teacher_size))
        self.student_embedding.build((None, student_size))
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.teacher_bank = self._make_bank("teacher", seed)
        self.student_bank = self._make_bank("student", seed + 1)
        # 1 in `has_z` once Z is known.
        self.log_z, self.has_z = (
            self.add_weight(
                shape=shape, initializer="zeros", trainable=False, aggregation="mean", name=name
            )
            for name, shape in (("log_z", (2,)), ("has_z", ()))
        )
        self.built = True

    def call(self, teacher, student, index, valid=None, training=False):
        """Returns the loss of each example, shape [batch]; in training remembers its embeddings.

        Args:
            teacher: Shape [batch, teacher_size].
            student: Shape [batch, student_size].
            index: The number of each example, integers of shape [batch].
            valid: None, or which examples count, booleans of shape [batch].
            training: Whether to remember.
        """
        index = ops.cast(index, "int32")
        embeddings = {
            "teacher": l2_normalize(self.teacher_embedding(teacher)),
            "student": l2_normalize(self.student_embedding(student)),
        }
        scores = contrast_scores(
            **embeddings,
            teacher_bank=self.teacher_bank.value,
            student_bank=self.student_bank.value,
            contrast_index=self._draw(index, training),
            temperature=self.temperature,
        )
        log_z = ops.where(
            self.has_z.value > 0.0,
            self.log_z.value,
            log_normalizer(scores=scores, n_data=self.n_data, valid=valid),
        )
        losses = noise_contrast(scores=scores, log_z=log_z, n_data=self.n_data, valid=valid)
        if training:
            self._remember(embeddings, index, log_z, valid)
        return losses

    def get_config(self):
        """Returns the arguments of the constructor."""
        names = ("n_data", "teacher_size", "student_size", "negatives", "dim", "temperature")
        own = {name: getattr(self, name) for name in (*names, "momentum", "seed")}
        return {**super().get_config(), **own}

    def _make_bank(self, side, seed):
        bound = math.sqrt(3.0 / self.dim)  # For rows of about length 1.
        return self.add_weight(
            shape=(self.n_data, self.dim),
            initializer=keras.initializers.RandomUniform(-bound, bound, seed=seed),
            trainable=False,
            aggregation="mean",
            name=f"{side}_bank",
        )

    def _draw(self, index, training):
        """Returns each example's own number and those of its negatives, [batch, 1 + K]."""
        negatives = keras.random.randint(
            (ops.shape(index)[0], self.negatives),
            0,
            self.n_data,
            seed=self.seed_generator if training else self.seed,
        )
        return ops.concatenate([ops.expand_dims(index, -1), negatives], axis=1)

    def _remember(self, embeddings, index, log_z, valid):
        for bank, side in ((self.teacher_bank, "teacher"), (self.student_bank, "student")):
            updated = updated_bank(
                bank=bank.value,
                embedding=embeddings[side],
                index=index,
                momentum=self.momentum,
                valid=valid,
            )
            bank.assign(with_changes_of_all(bank.value, updated))
        self.log_z.assign(log_z)
        any_example = ops.shape(index)[0] > 0 if valid is None else ops.any(valid)
        self.has_z.assign(ops.maximum(self.has_z.value, ops.cast(any_example, "float32")))


@registry.method(
    "crd",
    title="Contrastive representation distillation (CRD)",
    kind="relation",
    needs="example numbers (`keras_kd.data.with_index`)",
    reference="arXiv:1910.10699",
)
class ContrastiveRepresentation(OnePart, base.DistillationLoss):
    """Student and teacher embed an example alike, and unlike other examples; see `crd`.

    Both sides, flattened to one vector an example, pass a trained linear embedding. Negatives are
    drawn uniformly from all data with replacement, so that the example itself may be among them, as
    in the authors' code. A step gathers 2 * batch * (K + 1) * dim numbers. The paper reads the
    embedding before the classifier; its weight is 0.8.

    What is remembered is saved with the distiller; examples of sample weight 0 are not remembered.

    Args:
        n_data: Number of examples in the data; the numbers of all examples are below it.
        teacher_layer_name: Layer path in the teacher; None for its output.
        student_layer_name: The same in the student.
        negatives: K, how many negatives an example has.
        dim: Size of the embeddings.
        temperature: tau > 0.
        momentum: What is kept of a remembered embedding when its example is seen again, in [0, 1].
        seed: Seed of the banks and of the negatives, an integer of at least 0.
        memory: None to make a `ContrastMemory` for the two models, or one of one's own.
        name: Name in the logs.

    Raises:
        ValueError: If an option is out of range; when the distiller is made, if a feature's size is
            not fixed; in training, if an example's number is not below `n_data`.

    Example:
        >>> loss = keras_kd.losses.get(
        ...     "crd", n_data=len(x), teacher_layer_name="pool", student_layer_name="pool"
        ... )
        >>> distiller = keras_kd.Distiller(teacher, student, loss, 0.8)
        >>> distiller.fit(keras_kd.data.with_index(x), y)

    Reference: Tian et al., arXiv:1910.10699, section 3.
    """

    needs = frozenset({"index"})
    part_name = "memory"

    def __init__(
        self,
        n_data,
        teacher_layer_name=None,
        student_layer_name=None,
        *,
        negatives=16384,
        dim=128,
        temperature=0.07,
        momentum=0.5,
        seed=0,
        memory=None,
        name=None,
    ):
        super().__init__(
            teacher_layer_name=teacher_layer_name, student_layer_name=student_layer_name, name=name
        )
        self.n_data = positive_integer("n_data", n_data)
        self.negatives = positive_integer("negatives", negatives)
        self.dim = positive_integer("dim", dim)
        self.temperature = number("temperature", temperature, positive=True)
        self.momentum = number("momentum", momentum)
        if momentum > 1.0:
            raise ValueError(f"Expected momentum in [0, 1]. Received: {momentum!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"Expected seed to be an integer of at least 0. Received: {seed!r}")
        self.seed = seed
        if not (memory is None or isinstance(memory, ContrastMemory)):
            raise ValueError(
                f"Expected memory to be None or a ContrastMemory. Received: {memory!r}"
            )
        self.memory = memory

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, shape [batch].

        Raises:
            ValueError: If the loss is not connected to two models, or an example's number is not
                below `n_data`.
        """
        if self.memory is None or context.index is None:
            raise ValueError(
                f"Expected '{self.name}' in a keras_kd.Distiller, which gives it its memory and "
                "the numbers of the examples. Received: no "
                f"{'memory' if self.memory is None else 'example numbers'}."
            )
        self._check_index(context.index)
        mask, valid = context.mask(), context.valid
        values = self.memory(
            teacher=ops.stop_gradient(flat_rows(unpadded(teacher_outputs, mask), valid)),
            student=flat_rows(unpadded(student_outputs, mask), valid),
            index=context.index,
            valid=valid,
            training=context.training,
        )
        # Refuses weights of positions, of which there are none.
        return mean_over_positions(values, None, context.position_weight)

    def connect(self, ends):
        """Makes the memory for the two models; see `DistillationLoss.connect`.

        Raises:
            ValueError: If a model has several outputs and no layer is named, or the size of a
                feature is not fixed.
        """
        check_one_output(self, ends)
        connected = copy.copy(self)
        if self.memory is None and ends.teacher is not None and ends.student is not None:
            connected.memory = ContrastMemory(
                self.n_data,
                _size("teacher", ends.teacher),
                _size("student", ends.student),
                negatives=self.negatives,
                dim=self.dim,
                temperature=self.temperature,
                momentum=self.momentum,
                seed=self.seed,
                name=f"{self.name}_memory",
            )
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        names = ("n_data", "negatives", "dim", "temperature", "momentum", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _check_index(self, index):
        """Refuses numbers without a row, where there are values: on the first batch."""
        if hasattr(index, "numpy") and int(ops.max(index)) >= self.n_data:
            raise ValueError(
                f"Expected examples numbered below n_data={self.n_data}. Received: "
                f"{int(ops.max(index))}. Hint: n_data is the number of examples in the data."
            )


def _size(role, feature):
    sizes = tuple(feature.shape)[1:]
    if None in sizes:
        raise ValueError(
            f"Expected a feature of fixed size from the {role}. Received shape "
            f"{tuple(feature.shape)}. Hint: name a layer behind the pooling."
        )
    return math.prod(sizes)
