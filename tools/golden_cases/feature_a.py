"""Golden cases of feature knowledge: hints, attention, Grams, boundaries, factors, margins."""

import tensorflow as tf

from golden_cases.case import Case, hwio, nhwc
from keras_kd.losses import feature


def _maps(function, **options):
    """A case on the maps of one layer of each model."""

    def mean(*, student, teacher):
        values = function(teacher=nhwc(teacher), student=nhwc(student), **options)
        return tf.reduce_mean(values)

    return Case(mean)


def _fsp(*, student, student2, teacher, teacher2):
    sides = [nhwc(teacher), nhwc(teacher2)], [nhwc(student), nhwc(student2)]
    values = feature.flow_of_solution(teacher=sides[0], student=sides[1], pooling="average")
    return tf.reduce_mean(values)


def _overhaul(*, student, teacher, margin):
    values = feature.overhaul(teacher=nhwc(teacher), student=nhwc(student), margin=margin)
    return tf.reduce_mean(values)


def _variational(*, student, teacher, w1, w2, w3, log_scale):
    loss = feature.VariationalInformation("teacher", "student")
    teacher, mean = loss.align(nhwc(teacher), nhwc(student))
    mean = tf.nn.relu(tf.nn.conv2d(mean, hwio(w1), 1, "SAME"))
    mean = tf.nn.relu(tf.nn.conv2d(mean, hwio(w2), 1, "SAME"))
    mean = tf.nn.conv2d(mean, hwio(w3), 1, "SAME")
    values = feature.variational_information(
        teacher=teacher, mean=mean, variance=feature.channel_variance(log_scale)
    )
    return tf.reduce_mean(values)


CASES = {
    "hint_mse": _maps(feature.hint),
    "at": _maps(feature.attention_transfer),
    "at_paper": _maps(feature.attention_transfer, mode="paper"),
    "nst": _maps(feature.neuron_selectivity),
    "fsp": Case(_fsp, gradients=("student", "student2")),
    "ab": _maps(feature.activation_boundary),
    "ft_paper_l1": _maps(feature.factor_transfer),
    "vid": Case(_variational, gradients=("student", "log_scale")),
    "ofd_feat_loss": Case(_overhaul),
    "ofd_margin": Case(feature.overhaul_margin, gradients=()),
    "cwd": _maps(feature.channel_wise, temperature=4.0),
    "pkd_pearson": _maps(feature.pearson_feature),
    "ickd_chsim": _maps(feature.inter_channel),
}
