"""Channel-wise distillation (CWD): where each channel looks."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import as_maps, check_whole
from keras_kd.losses.feature.pooling import channel_rows
from keras_kd.numerics import tempered_log_softmax
from keras_kd.projectors import check_same_shape


def channel_wise(*, teacher, student, temperature):
    """Tempered KL divergence over the positions of each channel, the mean over channels.

    T^2 / C sum_c KL(softmax_hw(t_c / T) || softmax_hw(s_c / T)).

    Args:
        teacher: Maps of shape [batch, height, width, channels]; receive no gradient.
        student: Maps of the same shape.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch], in nats.

    Raises:
        ValueError: If the shapes differ.

    Reference: Shu et al., arXiv:2011.13256, section 3.2.
    """
    check_same_shape(student.shape, teacher.shape, "projector='auto' makes them meet.")
    log_p, log_q = (
        tempered_log_softmax(channel_rows(as_maps(maps)), temperature)
        for maps in (ops.stop_gradient(teacher), student)
    )
    divergence = ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
    return temperature**2 * ops.mean(divergence, axis=-1)


@registry.method(
    "cwd",
    title="Channel-wise distillation (CWD)",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:2011.13256",
)
class ChannelWise(FeatureLoss):
    """CWD: each channel of the student looks where the teacher's does.

    Made for dense prediction, for the maps of logits or an inner layer.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed.
        student_layer_name: As many in the student.
        temperature: T > 0, a float or a schedule.
        projector: `"auto"` for what brings the student's maps to the teacher's shape, None to ask
            for equal shapes, or a Keras layer of one's own; for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the temperature is not positive or the lists differ in length; when the
            distiller is made, if a layer is unknown or shapes do not meet.

    Example:
        >>> keras_kd.losses.get("cwd", teacher_layer_name="logits", student_layer_name="logits")

    `distillation_loss_weights` is 3 on maps of logits and 50 on inner layers in common scripts.

    Reference: Shu et al., arXiv:2011.13256, section 3.2.
    """

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        temperature=4.0,
        projector=AUTO,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        self.temperature = schedules.checked("temperature", temperature, positive=True)

    def compare(self, teacher, student, context, index):
        """Returns `channel_wise` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        temperature = schedules.value_at(self.temperature, context.step)
        return channel_wise(teacher=teacher, student=student, temperature=temperature)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "temperature": schedules.serialize(self.temperature)}

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        temperature = schedules.deserialize(config["temperature"])
        return super().from_config({**config, "temperature": temperature})
