"""Golden cases of response knowledge."""

import tensorflow as tf

from golden_cases.case import Case, nhwc
from keras_kd.losses import response


def _two(function, **arguments):
    """A loss between student and teacher."""

    def value(*, student, teacher, **_):
        return tf.reduce_mean(function(teacher=teacher, student=student, **arguments))

    return Case(value)


def _labelled(function, *, weight=1.0, **arguments):
    """A loss between student and teacher that needs the labels."""

    def value(*, student, teacher, labels):
        values = function(teacher=teacher, student=student, labels=labels, **arguments)
        return weight * tf.reduce_mean(values)

    return Case(value)


def _many(weighting):
    """Three teachers."""

    def value(*, student, teacher, teacher2, teacher3, labels):
        values = response.multi_teacher(
            teachers=[teacher, teacher2, teacher3],
            student=student,
            temperature=4.0,
            weighting=weighting,
            labels=labels,
        )
        return tf.reduce_mean(values)

    return Case(value)


def _cross_entropy(student, labels):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, student))


def _tfkd_self(*, student, teacher, labels):
    values = response.tfkd_self(teacher=teacher, student=student, temperature=20.0)
    return 0.05 * _cross_entropy(student, labels) + 0.95 * tf.reduce_mean(values)


def _tfkd_reg(*, student, labels):
    values = response.tfkd_reg(student=student, labels=labels, temperature=20.0, multiplier=100.0)
    return 0.9 * _cross_entropy(student, labels) + 0.1 * tf.reduce_mean(values)


def _pskd(*, student, soft_targets, **_):
    return tf.reduce_mean(response.pskd(soft_targets=soft_targets, student=student))


def _onehot(*, teacher):
    return tf.reduce_mean(response.dafl_onehot(logits=teacher))


def _info_entropy(*, teacher):
    return tf.reduce_mean(response.dafl_info_entropy(logits=teacher))


def _activation(*, teacher):
    return tf.reduce_mean(response.dafl_activation(feature=nhwc(teacher)))


CASES = {
    "kd_hinton_T1": _two(response.soft_target, temperature=1.0),
    "kd_hinton_T4": _two(response.soft_target, temperature=4.0),
    "kd_logit_mse": _two(response.logit_mse),
    "kd_tfkd_elementwise_mean": Case(_tfkd_self),
    "tfkd_reg_virtual_teacher": Case(_tfkd_reg),
    "logit_std_kd": _two(response.lskd, temperature=2.0),
    "dkd": _labelled(response.dkd, temperature=4.0, alpha=1.0, beta=8.0),
    "dkd_tckd_only": _labelled(response.dkd, temperature=4.0, alpha=1.0, beta=0.0),
    "dkd_nckd_only": _labelled(response.dkd, temperature=4.0, alpha=0.0, beta=1.0),
    "nkd": _labelled(response.nkd, temperature=1.0, gamma=1.5),
    "nkd_T3": _labelled(response.nkd, temperature=3.0, gamma=1.5),
    "wsld": _labelled(response.wsld, weight=2.5, temperature=2.0),
    "dist_mmrazor_T4": _two(response.dist, temperature=4.0, beta=2.0, gamma=2.0),
    "dist_inter_only": _two(response.dist, temperature=1.0, beta=1.0, gamma=0.0),
    "dist_intra_only": _two(response.dist, temperature=1.0, beta=0.0, gamma=1.0),
    "mlkd_class_corr": _two(response.class_correlation, temperature=4.0),
    "mlkd_batch_corr": _two(response.batch_correlation, temperature=4.0),
    # Each network of deep mutual learning is the teacher of the other.
    "dml": _two(response.soft_target, temperature=1.0),
    # The golden's teacher is the partner.
    "cskd": _two(response.soft_target, temperature=4.0),
    "pskd": Case(_pskd),
    "multi_teacher_average": _many("mean"),
    "multi_teacher_ebkd": _many("entropy"),
    "multi_teacher_camkd_logits": _many("confidence"),
    "dafl_onehot": Case(_onehot, ("teacher",)),
    "dafl_info_entropy": Case(_info_entropy, ("teacher",)),
    "dafl_activation": Case(_activation, ("teacher",)),
}
