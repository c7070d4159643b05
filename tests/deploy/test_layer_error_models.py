"""The errors of layers on MLPerf Tiny's own Keras models."""

import math

import keras
import numpy as np
import pytest

from keras_kd import deploy

EXAMPLES = 3


class Depthwise(keras.layers.DepthwiseConv2D):
    """Takes `groups`, which Keras 2 wrote into the file and Keras 3 does not know."""

    def __init__(self, *args, groups=1, **options):
        super().__init__(*args, **options)


def model(data_folder, name):
    path = data_folder / f"models/mlcommons_tiny/{name}.h5"
    return keras.models.load_model(
        path, compile=False, custom_objects={"DepthwiseConv2D": Depthwise}
    )


def examples(data_folder, shape, highest):
    """Digits in the model's shape and range: of most of the models no data are at hand."""
    with np.load(data_folder / "mnist.npz") as archive:
        digits = archive["x_test"][:60].astype("float32") / 255
    tiled = np.stack([np.resize(digit, shape) for digit in digits])
    return (tiled * highest).astype("float32")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "highest", "layer_count"),
    [("pretrainedResnet", 255, 10), ("ad01", 1, 10), ("vww_96", 1, 28), ("str_ww_ref_model", 1, 9)],
)
def test_every_layer_with_weights_has_an_error(data_folder, name, highest, layer_count):
    student = model(data_folder, name)
    x = examples(data_folder, student.input_shape[1:], highest)
    artifact = deploy.convert(student, calibration=x, input_range=(0, highest))
    errors = deploy.layer_errors(student, artifact, x[:EXAMPLES])
    weighted = {
        layer.name
        for layer in student.layers
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D | Depthwise)
    }
    assert len(weighted) == layer_count
    assert weighted <= {path.split("/")[-1] for error in errors for path in error.layers}
    own = [error.own_sqnr_db for error in errors if error.own_sqnr_db is not None]
    # Eight bits of a signal that fills the range are 50 dB; a tenth of that range is 30 dB, and a
    # layer's inputs, weights and output each add their rounding.
    assert np.median(own) > 25
    assert not any(math.isnan(error.sqnr_db) for error in errors)
