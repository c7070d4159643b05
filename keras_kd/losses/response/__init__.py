"""Response knowledge: what the teacher answers."""

from keras_kd.losses.response.class_wise import (
    ClassWiseSelfDistillation,
    cskd,
    same_class_partner,
)
from keras_kd.losses.response.data_free import dafl_activation, dafl_info_entropy, dafl_onehot
from keras_kd.losses.response.decoupled import DecoupledDistillation, dkd
from keras_kd.losses.response.inter_intra import InterIntraDistillation, dist
from keras_kd.losses.response.logit_mse import LogitMatching, logit_mse
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.multi_level import (
    MultiLevelDistillation,
    batch_correlation,
    class_correlation,
    mlkd,
)
from keras_kd.losses.response.multi_teacher import (
    MultiTeacherDistillation,
    multi_teacher,
    teacher_weights,
)
from keras_kd.losses.response.normalized import NormalizedDistillation, nkd
from keras_kd.losses.response.progressive import (
    PredictionMemory,
    ProgressiveSelfDistillation,
    progressive_targets,
    pskd,
)
from keras_kd.losses.response.self_logits import SelfLogitsLoss
from keras_kd.losses.response.soft_target import (
    LogitsDistillation,
    binary_soft_target,
    soft_target,
)
from keras_kd.losses.response.standardized import StandardizedLogits, lskd, standardized
from keras_kd.losses.response.teacher_free import (
    TeacherFreeRegularization,
    TeacherFreeSelf,
    tfkd_reg,
    tfkd_self,
)
from keras_kd.losses.response.weighted_soft_labels import WeightedSoftLabels, wsld

__all__ = [
    "ClassWiseSelfDistillation",
    "DecoupledDistillation",
    "InterIntraDistillation",
    "LogitMatching",
    "LogitsDistillation",
    "LogitsLoss",
    "MultiLevelDistillation",
    "MultiTeacherDistillation",
    "NormalizedDistillation",
    "PredictionMemory",
    "ProgressiveSelfDistillation",
    "SelfLogitsLoss",
    "StandardizedLogits",
    "TeacherFreeRegularization",
    "TeacherFreeSelf",
    "WeightedSoftLabels",
    "batch_correlation",
    "binary_soft_target",
    "class_correlation",
    "cskd",
    "dafl_activation",
    "dafl_info_entropy",
    "dafl_onehot",
    "dist",
    "dkd",
    "logit_mse",
    "lskd",
    "mlkd",
    "multi_teacher",
    "nkd",
    "progressive_targets",
    "pskd",
    "same_class_partner",
    "soft_target",
    "standardized",
    "teacher_weights",
    "tfkd_reg",
    "tfkd_self",
    "wsld",
]
