"""Teachers: whatever answers "what would the teacher say here?"."""

from keras_kd.teachers import baseline
from keras_kd.teachers.around import as_teacher
from keras_kd.teachers.attach import attach, with_answers
from keras_kd.teachers.attached import Attached
from keras_kd.teachers.base import Answer, Teacher
from keras_kd.teachers.baseline import Baseline, TeacherBaseline
from keras_kd.teachers.classes import MapClasses
from keras_kd.teachers.ensemble import Ensemble
from keras_kd.teachers.estimator import Estimator
from keras_kd.teachers.known import ForEach, KnownOnly
from keras_kd.teachers.model import ModelTeacher
from keras_kd.teachers.moving_average import MovingAverage
from keras_kd.teachers.outside import Callable

__all__ = [
    "Answer",
    "Attached",
    "Baseline",
    "Callable",
    "Ensemble",
    "Estimator",
    "ForEach",
    "KnownOnly",
    "MapClasses",
    "ModelTeacher",
    "MovingAverage",
    "Teacher",
    "TeacherBaseline",
    "as_teacher",
    "attach",
    "baseline",
    "with_answers",
]
