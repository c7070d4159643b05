"""Golden cases of relation knowledge."""

import tensorflow as tf

from golden_cases.case import Case, nhwc
from keras_kd.losses.relation import cc, crd, irg, pkt, rkd, rkd_angle, rkd_distance, sp
from keras_kd.losses.relation.contrast import contrast_scores, log_normalizer, updated_bank
from keras_kd.numerics import l2_normalize


def _mean(loss, **options):
    def function(*, student, teacher, **_):
        return tf.reduce_mean(loss(teacher=teacher, student=student, **options))

    return Case(function)


# -- contrastive: "v1" is the student, "v2" the teacher --------------------------------------------


def _embedded(*, student, teacher, bs, bt, **inputs):
    """The embeddings of both sides; kernels are [out, in]."""
    return {
        "student": l2_normalize(tf.matmul(student, inputs["Ws"], transpose_b=True) + bs),
        "teacher": l2_normalize(tf.matmul(teacher, inputs["Wt"], transpose_b=True) + bt),
    }


def _remembered(*, memory_v1, memory_v2, contrast_idx, **_):
    return {
        "student_bank": memory_v1,
        "teacher_bank": memory_v2,
        "contrast_index": contrast_idx,
    }


def _updated(*, idx, memory_v1, memory_v2, **inputs):
    """The banks after the first call, student's and teacher's."""
    embedded = _embedded(**inputs)
    return [
        updated_bank(bank=bank, embedding=embedded[side], index=idx)
        for bank, side in ((memory_v1, "student"), (memory_v2, "teacher"))
    ]


def _log_z(**inputs):
    scores = contrast_scores(**_embedded(**inputs), **_remembered(**inputs))
    return log_normalizer(scores=scores, n_data=inputs["memory_v1"].shape[0])


def _first_call(**inputs):
    return tf.reduce_mean(crd(**_embedded(**inputs), **_remembered(**inputs)))


def _second_call(**inputs):
    v1, v2 = (tf.stop_gradient(bank) for bank in _updated(**inputs))
    remembered = _remembered(**{**inputs, "memory_v1": v1, "memory_v2": v2})
    return tf.reduce_mean(crd(**_embedded(**inputs), **remembered, log_z=_log_z(**inputs)))


# -- graph -----------------------------------------------------------------------------------------


def _irg(*, student, student2, sfeat, slogits, teacher, teacher2, tfeat, tlogits, **_):
    values = irg(
        teacher=(nhwc(teacher), nhwc(teacher2), tfeat, tlogits),
        student=(nhwc(student), nhwc(student2), sfeat, slogits),
    )
    return tf.reduce_mean(values)


CASES = {
    "rkd": _mean(rkd),
    "rkd_distance": _mean(rkd_distance),
    "rkd_angle": _mean(rkd_angle),
    "pkt": _mean(pkt),
    "sp": _mean(sp),
    "cc_gaussian_torchdistill": _mean(cc, form="norm"),
    "crd_first_call": Case(_first_call),
    "crd_second_call": Case(_second_call),
    "crd_Z": Case(lambda **inputs: tf.exp(_log_z(**inputs)), ()),
    "crd_memory": Case(lambda **inputs: tf.stack(_updated(**inputs)), ()),
    "irg": Case(_irg, ("student", "student2", "sfeat", "slogits")),
}
