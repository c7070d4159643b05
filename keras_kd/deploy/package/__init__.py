"""What is handed over with a converted model, so that an application can be built around it."""

from keras_kd.deploy.package.android import write_project
from keras_kd.deploy.package.c_array import write_c_array
from keras_kd.deploy.package.metadata import (
    Metadata,
    TensorMetadata,
    image_classifier,
    read_metadata,
    write_metadata,
)
from keras_kd.deploy.package.write import Package, PackageError, write_package

__all__ = [
    "Metadata",
    "Package",
    "PackageError",
    "TensorMetadata",
    "image_classifier",
    "read_metadata",
    "write_c_array",
    "write_metadata",
    "write_package",
    "write_project",
]
