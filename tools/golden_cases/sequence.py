"""Golden cases of sequence knowledge."""

import tensorflow as tf

from golden_cases.case import Case
from keras_kd.losses import sequence

_IGNORED = -100


def _distilbert_triple(*, student, teacher, s_hidden, t_hidden, attention_mask, lm_labels):
    values = sequence.distilbert(
        teacher=teacher,
        student=student,
        teacher_hidden=t_hidden,
        student_hidden=s_hidden,
        temperature=2.0,
        mask=tf.cast(attention_mask, tf.bool),
    )
    asked = lm_labels != _IGNORED
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.boolean_mask(lm_labels, asked), tf.boolean_mask(student, asked)
    )
    return tf.reduce_mean(values) + 2.0 * tf.reduce_mean(entropy)


def _tinybert_att(*, student, teacher):
    return tf.reduce_mean(sequence.attention_scores_mse(teacher=teacher, student=student))


def _tinybert_soft_ce(*, student, teacher, **_):
    values = sequence.soft_cross_entropy(teacher=teacher, student=student, temperature=1.0)
    return tf.reduce_mean(values)


def _minilmv2(*, attention_mask, **vectors):
    values = [
        sequence.relation_kl(
            teacher=vectors[f"t_{kind}"],
            student=vectors[f"s_{kind}"],
            relation_heads=4,
            mask=tf.cast(attention_mask, tf.bool),
        )
        for kind in "qkv"
    ]
    return tf.reduce_mean(values)


def _masked(function):
    def value(*, student, teacher, mask):
        values = function(teacher=teacher, student=student, mask=tf.cast(mask, tf.bool))
        return tf.reduce_mean(values)

    return Case(value)


CASES = {
    "distilbert_triple": Case(_distilbert_triple, ("student", "s_hidden")),
    "tinybert_att": Case(_tinybert_att),
    "tinybert_soft_ce": Case(_tinybert_soft_ce),
    "minilmv2": Case(_minilmv2, ("s_q", "s_k", "s_v")),
    "hidden_mse_masked": _masked(sequence.hidden_mse),
    "cos_masked": _masked(sequence.hidden_cosine),
}
