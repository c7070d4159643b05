"""Factor transfer: the teacher's feature, paraphrased by an autoencoder."""

import copy
import dataclasses

import keras
from keras import layers, ops

from keras_kd.heads import is_functional
from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import check_whole
from keras_kd.losses.feature.pooling import average_pool_larger
from keras_kd.numerics import at_least_float32, l2_normalize
from keras_kd.projectors import check_same_shape

_CONVOLUTIONS = {
    3: (layers.Conv1D, layers.Conv1DTranspose),
    4: (layers.Conv2D, layers.Conv2DTranspose),
}


def factor_transfer(*, teacher, student):
    """Mean absolute difference of two normalised factors, per example.

    mean |F_s / ||F_s||_2 - F_t / ||F_t||_2|, norms over the whole factor. The larger of two is
    average-pooled to the smaller size.

    Args:
        teacher: Factors of the paraphraser, shape [batch, height, width, channels]; receive no
            gradient.
        student: Factors of the translator, of as many channels.

    Returns:
        Shape [batch], at least 0.

    Raises:
        ValueError: If the channels differ.

    Reference: Kim et al., arXiv:1802.04977, section 3.
    """
    teacher, student = average_pool_larger(
        at_least_float32(ops.stop_gradient(teacher)), at_least_float32(student)
    )
    check_same_shape(student.shape, teacher.shape, "the translator makes channels equal.")
    difference = l2_normalize(student, axis=(1, 2, 3)) - l2_normalize(teacher, axis=(1, 2, 3))
    return ops.mean(ops.abs(difference), axis=(1, 2, 3))


def make_paraphraser(shape, *, rate=0.5):
    """Makes an autoencoder of a teacher's feature, and its encoder, the paraphraser.

    Three 3x3 convolutions, each with a leaky ReLU, lead to the factors, three transposed ones back.

    Args:
        shape: Shape of the teacher's feature, [batch, ...positions, channels].
        rate: Channels of the factors over channels of the feature, above 0; the paper's k.

    Returns:
        (autoencoder, encoder), two functional Keras models that share their weights: fit the first,
        give the second to `FactorTransfer`.

    Raises:
        ValueError: If the feature is no sequence and no map, or the rate is out of range.

    Example:
        >>> feature = teacher.get_layer("block3").output
        >>> autoencoder, encoder = make_paraphraser(feature.shape)
        >>> features = keras.Model(teacher.inputs, feature).predict(x_train)
        >>> autoencoder.compile("adam", "mse")
        >>> autoencoder.fit(features, features, epochs=30)

    Reference: Kim et al., arXiv:1802.04977, section 3.
    """
    convolution, transposed = _convolutions(shape)
    channels = shape[-1]
    factors = _factors(channels, rate)
    inputs = encoded = keras.Input(tuple(shape[1:]))
    for filters in (channels, factors, factors):
        encoded = convolution(filters, 3, padding="same")(encoded)
        encoded = layers.LeakyReLU(negative_slope=0.1)(encoded)
    decoded = encoded
    for filters in (factors, channels, channels):
        decoded = transposed(filters, 3, padding="same")(decoded)
        decoded = layers.LeakyReLU(negative_slope=0.1)(decoded)
    encoder = keras.Model(inputs, encoded, name="paraphraser")
    return keras.Model(inputs, decoded, name="paraphraser_autoencoder"), encoder


@registry.method(
    "ft",
    title="Factor transfer (FT)",
    kind="feature",
    needs="a layer of each, a trained paraphraser",
    reference="arXiv:1802.04977",
)
class FactorTransfer(FeatureLoss):
    """FT: a translator of the student's feature finds the factors of the teacher's.

    The paraphraser is trained first, on the teacher's features alone; see `make_paraphraser`. Here
    a frozen copy of it is used. The translator, three 3x3 convolutions with batch normalization and
    a leaky ReLU each, is trained with the student.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed.
        student_layer_name: As many in the student; sizes may differ.
        paraphraser: A built functional or sequential Keras model from the teacher's feature to
            factors; for several pairs a list of these.
        projector: `"auto"` for the translator, None for none, or a Keras layer of one's own to as
            many channels as the factors have; for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the paraphraser is no such model or the lists differ in length; when the
            distiller is made, if a layer is unknown.

    Example:
        >>> keras_kd.losses.get(
        ...     "ft",
        ...     teacher_layer_name="block3",
        ...     student_layer_name="block2",
        ...     paraphraser=encoder,
        ... )

    `distillation_loss_weights` is 200 in Tian et al., arXiv:1910.10699.

    Reference: Kim et al., arXiv:1802.04977, section 3.
    """

    match = None

    def __init__(
        self, teacher_layer_name, student_layer_name, *, paraphraser, projector=AUTO, name=None
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        given = paraphraser if isinstance(paraphraser, list | tuple) else [paraphraser]
        if len(given) != len(self._projectors):
            raise ValueError(
                f"Expected one paraphraser for each of {len(self._projectors)} pairs of layers. "
                f"Received: {len(given)}."
            )
        self._paraphrasers = tuple(map(_frozen, given))

    def compare(self, teacher, student, context, index):
        """Returns `factor_transfer` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        factors = self._paraphrasers[index](teacher, training=False)
        return factor_transfer(teacher=factors, student=student)

    def connect(self, ends):
        """Makes or builds the translators; see `DistillationLoss.connect`."""
        if ends.teacher is not None:
            factors = [
                keras.KerasTensor(model.compute_output_shape(tuple(feature.shape)))
                for model, feature in zip(
                    self._paraphrasers, self._sides(ends.teacher), strict=True
                )
            ]
            ends = dataclasses.replace(ends, teacher=factors if self._several else factors[0])
        return super().connect(ends)

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the translator to factors of shape `teacher_shape`; see `FeatureLoss.make_part`."""
        convolution, _ = _convolutions(student_shape)
        steps = []
        for filters in (student_shape[-1], teacher_shape[-1], teacher_shape[-1]):
            steps += [
                convolution(filters, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.LeakyReLU(negative_slope=0.1),
            ]
        translator = keras.Sequential(steps, name=name)
        translator.build(tuple(student_shape))
        return translator

    @property
    def parts(self):
        """The translators and the frozen paraphrasers."""
        return (*super().parts, *self._paraphrasers)

    def get_config(self):
        """Returns the arguments of the constructor."""
        paraphrasers = [keras.saving.serialize_keras_object(model) for model in self._paraphrasers]
        return {**super().get_config(), "paraphraser": paraphrasers}

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        # Keras empties the configuration of a functional model that it deserializes.
        serialized = copy.deepcopy(config["paraphraser"])
        paraphrasers = list(map(keras.saving.deserialize_keras_object, serialized))
        return super().from_config({**config, "paraphraser": paraphrasers})


def _frozen(paraphraser):
    """Returns a copy of a model that is not trained, with the weights it has now."""
    functional = isinstance(paraphraser, keras.Model) and paraphraser.built
    if not functional or not (
        is_functional(paraphraser) or isinstance(paraphraser, keras.Sequential)
    ):
        raise ValueError(
            "Expected paraphraser to be a built functional or sequential Keras model. "
            f"Received: {paraphraser!r}. Hint: make_paraphraser makes one; fit it first."
        )
    frozen = keras.models.clone_model(paraphraser)
    frozen.set_weights(paraphraser.get_weights())
    frozen.trainable = False
    return frozen


def _convolutions(shape):
    if len(shape) not in _CONVOLUTIONS:
        raise ValueError(
            "Expected a sequence or maps, of rank 3 or 4 with the batch. "
            f"Received shape {tuple(shape)}."
        )
    return _CONVOLUTIONS[len(shape)]


def _factors(channels, rate):
    factors = int(channels * rate)
    if factors < 1:
        raise ValueError(
            f"Expected a rate that leaves at least one of {channels} channels. Received: {rate!r}"
        )
    return factors
