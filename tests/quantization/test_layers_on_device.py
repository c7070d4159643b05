"""Each kind of layer alone: the device computes what the quantized model does, to one step."""

import keras
import numpy as np
import pytest

from keras_kd import deploy, quantization
from tests.quantization.layer_cases import INPUTS
from tests.quantization.on_device import check_alike, quantized_branches, steps_apart, trained

layers = keras.layers

CASES = [(kind, name) for kind, (_, cases) in INPUTS.items() for name in cases]


# One scale a kernel is another thing for these alone.
WITH_KERNELS = ("image", "kernels", "sequence", "sequence_kernels", "vector")
KERNEL_CASES_OF_ALL = [(kind, name) for kind, name in CASES if kind in WITH_KERNELS]
# In int8, TFLite Micro has no GELU and no EXP.
ON_MICRO = [kind for kind in INPUTS if kind != "vector"]


def measured(scheme, kinds):
    found = {}
    for kind in kinds:
        shape, cases = INPUTS[kind]
        quantized, x = quantized_branches(shape, cases, np.random.default_rng(0), scheme=scheme)
        artifact = deploy.convert(quantized)
        found[kind] = steps_apart(quantized, x, artifact), artifact, (quantized, x)
    return found


@pytest.fixture(scope="module")
def per_channel():
    return measured("int8", INPUTS)


@pytest.fixture(scope="module")
def per_tensor():
    return measured("int8_per_tensor", WITH_KERNELS)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_layer_is_what_the_device_computes(kind, name, per_channel):
    check_alike(per_channel[kind][0][name])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), KERNEL_CASES_OF_ALL)
def test_with_one_scale_a_kernel_too(kind, name, per_tensor):
    check_alike(per_tensor[kind][0][name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ON_MICRO)
def test_a_microcontroller_computes_it_too(kind, per_channel):
    _, artifact, (quantized, x) = per_channel[kind]
    found = steps_apart(quantized, x, artifact, runtime="tflm")
    for steps in found.values():
        check_alike(steps)


@pytest.mark.parametrize("kind", INPUTS)
def test_no_float_tensor_is_left(kind, per_channel):
    info = deploy.model_info(per_channel[kind][1].content)
    assert not info.float_tensors


def test_tokens_become_rows_of_integers():
    rng = np.random.default_rng(0)
    tokens = keras.Input((7,), dtype="int32")
    rows = layers.Embedding(11, 8)(tokens)
    outputs = {"rows": rows, "conv": layers.Conv1D(4, 3, activation="relu")(rows)}
    model = trained(keras.Model(tokens, outputs), rng)
    x = rng.integers(0, 11, size=(64, 7)).astype("int32")
    quantized = quantization.quantize_aware(model, calibration=x)
    artifact = deploy.convert(quantized)
    assert "SELECT" not in " ".join(op.name for op in deploy.model_info(artifact.content).ops)
    for steps in steps_apart(quantized, x, artifact).values():
        check_alike(steps)
