"""Teachers: whatever answers "what would the teacher say here?"."""

from keras_kd.teachers.model import ModelTeacher

__all__ = ["ModelTeacher"]
