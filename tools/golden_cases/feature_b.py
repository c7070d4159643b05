"""Golden cases of feature knowledge: stages, last maps and input gradients."""

import tensorflow as tf

from golden_cases.case import Case, hwio, nhwc
from keras_kd.losses.feature.catkd import catkd
from keras_kd.losses.feature.jacobian import jacobian
from keras_kd.losses.feature.mgd import masked_channels, mgd
from keras_kd.losses.feature.reviewkd import reviewkd
from keras_kd.losses.feature.semckd import semckd
from keras_kd.losses.feature.srrl import srrl


def _reviewkd(**maps):
    students = sorted(name for name in maps if name.startswith("student"))
    values = [
        reviewkd(teacher=nhwc(maps[name.replace("student", "teacher")]), student=nhwc(maps[name]))
        for name in students
    ]
    return tf.reduce_mean(tf.add_n(values))


def _semckd(*, attention, **maps):
    def grid(side):
        pairs = range(attention.shape[1]), range(attention.shape[2])
        return [[nhwc(maps[f"{side}{i}{j}"]) for j in pairs[1]] for i in pairs[0]]

    values = semckd(teacher=grid("t"), student=grid("s"), attention=attention)
    return tf.reduce_mean(values)


def _mgd(*, student, teacher, uniform, w1, b1, w2, b2):
    masked = masked_channels(nhwc(student), nhwc(uniform), 0.15)
    hidden = tf.nn.relu(tf.nn.conv2d(masked, hwio(w1), 1, "SAME") + b1)
    generated = tf.nn.conv2d(hidden, hwio(w2), 1, "SAME") + b2
    # The paper's weight, which is no part of the loss.
    return 7e-5 * tf.reduce_mean(mgd(teacher=nhwc(teacher), student=generated))


def _catkd(normalize):
    def function(*, student, teacher):
        maps = {"teacher": nhwc(teacher), "student": nhwc(student)}
        return tf.reduce_mean(catkd(**maps, resolution=2, normalize=normalize))

    return Case(function)


def _srrl(*, student, teacher, logit_st, logit_t):
    values = srrl(
        teacher=nhwc(teacher),
        student=nhwc(student),
        teacher_logits=logit_t,
        student_logits=logit_st,
        alpha=1.0,
        beta=5.0,
    )
    return tf.reduce_mean(values)


def _jacobian(*, x, labels, **weights):
    def gradient(weight):
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = tf.gather(tf.tanh(x @ weight), labels, batch_dims=1)
        return tape.gradient(logits, x)

    values = jacobian(teacher=gradient(weights["Wt"]), student=gradient(weights["Ws"]))
    return tf.reduce_mean(values)


CASES = {
    "reviewkd_hcl": Case(_reviewkd),
    "reviewkd_hcl_3levels": Case(_reviewkd, ("student", "student2", "student3")),
    "semckd": Case(_semckd, ("s00", "s12", "attention")),
    "mgd_full": Case(_mgd),
    "catkd_norm": _catkd(True),
    "catkd_raw": _catkd(False),
    "srrl": Case(_srrl, ("student", "logit_st")),
    "jacobian_matching": Case(_jacobian, ("Ws",)),
}
