"""How far a quantized student and the device are apart, in steps of the output's integers."""

import keras
import numpy as np

from keras_kd import deploy, quantization

# A value that the two compute alike but for rounding is at most one step off: the device keeps its
# scales in 31 bits and rounds its biases, so sums that lie on the edge between two integers fall to
# either side. An op that rounds twice inside may double that, which the issue allows in 1 of 100.
STEPS, SHARE = 1, 0.99


def trained(model, rng, *, examples=128):
    """Return a model whose weights, biases and statistics are those of no fresh one."""
    weights = []
    for variable in model.weights:
        values = rng.normal(size=variable.shape) * 0.3
        if "variance" in variable.path:
            values = rng.uniform(0.2, 2.0, size=variable.shape)
        weights.append(values)
    model.set_weights(weights)
    return model


def examples_for(model, rng, count=64):
    """Return inputs for a model of one float input."""
    return rng.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")


def steps_apart(quantized, x, artifact=None, *, runtime="litert_reference"):
    """Return {output name: |device - model| in steps, [examples, ...]}."""
    artifact = deploy.convert(quantized) if artifact is None else artifact
    device = deploy.Interpreter(artifact, runtime=runtime).predict(x)
    said = quantized.predict(x, verbose=0)
    if not isinstance(device, dict):
        device = {artifact.outputs[0].name: device}
    if not isinstance(said, dict):
        said = {artifact.outputs[0].name: said}
    found = {}
    for tensor in artifact.outputs:
        # Both are on the grid, so this is a whole number but for float32's rounding.
        found[tensor.name] = np.abs(said[tensor.name] - device[tensor.name]) / tensor.scale
    return found


def check_alike(steps, allowed=STEPS):
    """Assert that nearly all outputs are within a step, or as many as are allowed."""
    far = np.mean(steps > allowed + 0.5)
    assert far <= 1 - SHARE, (
        f"{far:.2%} of {steps.size} outputs are more than {allowed} steps off, the worst by "
        f"{steps.max():.0f}"
    )


def branches(shape, cases):
    """Return a model of one input with one output for each case: a layer, or a function of it."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, {name: fresh(case)(inputs) for name, case in cases.items()})


def fresh(case):
    """Return a layer like a layer of a table, which is made once and used by many tests."""
    if not isinstance(case, keras.Layer):
        return case
    return type(case).from_config({**case.get_config(), "name": None})


def quantized_branches(shape, cases, rng, **options):
    """Return a quantized model of one layer a branch, and inputs for it."""
    model = trained(branches(shape, cases), rng)
    x = examples_for(model, rng)
    return quantization.quantize_aware(model, calibration=x, **options), x
