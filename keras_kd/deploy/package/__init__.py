"""What is handed over with a converted model, so that an application can be built around it."""

from keras_kd.deploy.package.c_array import write_c_array

__all__ = ["write_c_array"]
