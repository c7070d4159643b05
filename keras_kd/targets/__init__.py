"""Soft targets on disk: a teacher is asked once, and its answers are read many times."""

from keras_kd.targets.join import attach
from keras_kd.targets.manifest import Manifest
from keras_kd.targets.shards import DamagedError
from keras_kd.targets.stored import Stored
from keras_kd.targets.teacher import StoredTeacher
from keras_kd.targets.writer import write

__all__ = ["DamagedError", "Manifest", "Stored", "StoredTeacher", "attach", "write"]
