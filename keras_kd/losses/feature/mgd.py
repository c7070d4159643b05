"""Masked generation: the teacher's map is made from what a mask leaves of the student's."""

import keras
from keras import layers, ops

from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import as_maps, check_whole, missing
from keras_kd.numerics import at_least_float32


def mgd(*, teacher, student):
    """Sum of squares between the teacher's maps and those generated from the student's.

    sum over height, width and channels of (student - teacher)^2; no mean, as in the paper.

    Args:
        teacher: Maps, shape [batch, height, width, channels]; receives no gradient.
        student: The generated maps (see `MaskedGenerator`), same shape.

    Returns:
        Shape [batch].

    Reference: Yang et al., arXiv:2205.01529.
    """
    teacher = at_least_float32(ops.stop_gradient(teacher))
    return ops.sum(ops.square(at_least_float32(student) - teacher), axis=(1, 2, 3))


def masked_channels(maps, uniform, ratio):
    """Returns maps with zeros in the channels whose uniform number is below `ratio`.

    Args:
        maps: Shape [batch, height, width, channels].
        uniform: Numbers in [0, 1), shape [batch, 1, 1, channels].
        ratio: Share of the channels that is masked, in [0, 1).

    Reference: Yang et al., arXiv:2205.01529; by channel as its code for
        classification does.
    """
    return maps * ops.cast(uniform >= ratio, maps.dtype)


@keras.saving.register_keras_serializable(package="keras_kd")
class MaskedGenerator(layers.Layer):
    """Masks whole channels of maps, for each example anew, and generates maps from the rest.

    The mask is drawn in training alone; its seed's state is saved. Compiled by XLA, the same
    seed draws other masks. The generator is a convolution of 3x3, a ReLU and another one.

    Args:
        channels: Channels of the maps, which are the teacher's.
        ratio: Share of the channels that is masked, in [0, 1).
        seed: Seed of the masks; None for a random one.
        **kwargs: Passed to `keras.layers.Layer`.

    Reference: Yang et al., arXiv:2205.01529.
    """

    def __init__(self, channels, ratio, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.ratio, self.seed = channels, ratio, seed
        self.seeds = keras.random.SeedGenerator(seed)
        self.first = layers.Conv2D(channels, 3, padding="same", activation="relu")
        self.second = layers.Conv2D(channels, 3, padding="same")
        for convolution in (self.first, self.second):
            convolution.build((None, None, None, channels))
        self.built = True

    def call(self, maps, training=None):
        """Returns generated maps, of the same shape."""
        if training:
            shape = (ops.shape(maps)[0], 1, 1, self.channels)
            maps = masked_channels(maps, keras.random.uniform(shape, seed=self.seeds), self.ratio)
        return self.second(self.first(maps))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "ratio": self.ratio,
            "seed": self.seed,
        }


@registry.method(
    "mgd",
    title="Masked generative distillation (MGD)",
    kind="feature",
    needs="layers of both",
    reference="arXiv:2205.01529",
)
class MGD(FeatureLoss):
    """The teacher's maps are generated from the student's, of which a part is masked.

    `mgd` of the maps that a `MaskedGenerator` makes. The value is a sum over all that a map holds:
    the paper's weight for classification is 7e-5. Outside of training nothing is masked.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths.
        student_layer_name: As many in the student.
        ratio: Share of the channels that is masked, in [0, 1).
        seed: Seed of the masks, an integer; None for a random one.
        projector: In front of the mask, to the shape of the teacher's maps: `"auto"` for the 1x1
            convolution of the paper (maps of other sizes are resized, where the paper asks for
            equal ones), None for nothing, or a layer of one's own; for several pairs a list.
        generator: What `get_config` saves; None to make it for the two models.
        name: Name in the logs.

    Raises:
        ValueError: If `ratio` is out of range; see `FeatureLoss` for the rest.

    Example:
        >>> loss = keras_kd.losses.get("mgd", teacher_layer_name="top", student_layer_name="last")
        >>> keras_kd.Distiller(teacher, student, loss, distillation_loss_weights=7e-5)

    Reference: Yang et al., arXiv:2205.01529.
    """

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        ratio=0.15,
        seed=None,
        projector=AUTO,
        generator=None,
        name=None,
    ):
        super().__init__(
            teacher_layer_name, student_layer_name, projector=projector, name=name or "mgd"
        )
        if not 0.0 <= ratio < 1.0:
            raise ValueError(f"Expected ratio in [0, 1). Received: {ratio!r}")
        self.ratio, self.seed = ratio, seed
        self._generators = tuple(generator or ())

    def compare(self, teacher, student, context, index):
        """Returns the loss of each example for one pair of layers, shape [batch]."""
        check_whole(context, index, self.name)
        if not self._generators:
            raise missing(self.name)
        generated = self._generators[index](as_maps(student), training=context.training)
        return mgd(teacher=as_maps(teacher), student=generated)

    def connect(self, ends):
        """Makes projectors and generators; see `FeatureLoss.connect`.

        Raises:
            ValueError: If shapes do not meet and no projector can make them.
        """
        connected = super().connect(ends)
        if not self._generators and ends.teacher is not None and ends.student is not None:
            connected._generators = tuple(
                MaskedGenerator(
                    feature.shape[-1],
                    self.ratio,
                    None if self.seed is None else self.seed + index,
                    name=f"{self.name}_generator_{index}",
                )
                for index, feature in enumerate(self._sides(ends.teacher))
            )
        return connected

    def is_connected(self):
        """Returns whether projectors and generators are made."""
        return super().is_connected() and bool(self._generators)

    @property
    def parts(self):
        """The projectors and the generators."""
        return (*super().parts, *self._generators)

    def get_config(self):
        """Returns the arguments of the constructor."""
        generators = [keras.saving.serialize_keras_object(part) for part in self._generators]
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "seed": self.seed,
            "generator": generators or None,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        generators = [
            keras.saving.deserialize_keras_object(part) for part in config["generator"] or ()
        ]
        return super().from_config({**config, "generator": generators})
