"""The student as a SavedModel with one signature of static batch 1: what the converter is given.

Why a SavedModel and not the `.keras` file: the child process that converts it then needs none of
the student's classes, so custom layers and subclassed models work without being registered or
pickled. The weights are written into the graph as constants, not as variables: tracing and
saving a small student took 0.1 s that way against 0.9 s through `keras.export.ExportArchive`, the
folder is less than half the size, and the converter gives the same ops.

The student is run through `stateless_call`, so tracing leaves no trace in it: no loss of
`add_loss`, no updated statistic.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.deploy.structure import signature_name

SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of the student: its name in the signature, shape with batch 1, and dtype.

    `key` is what the caller's dict calls it: the key of a dict input, else the tensor's name.
    """

    key: str
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        """Whether it takes floating point numbers."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclasses.dataclass(frozen=True)
class Traced:
    """What is known of a student that was written as a SavedModel.

    Attributes:
        output_names: The outputs' names, in the student's order.
        range_bits: Bits of the largest integers that it says the ranges of itself, as one does that
            was trained with quantization (it has FakeQuant ops); 0 where it says none.
    """

    output_names: tuple[str, ...]
    range_bits: int


@dataclasses.dataclass(frozen=True)
class StudentInputs:
    """The student's inputs, flat, and the structure its `call` wants them in."""

    specs: tuple[InputSpec, ...]
    structure: Any

    def packed(self, tensors: list) -> Any:
        """The flat list of tensors in the structure that the student is called with."""
        return keras.tree.pack_sequence_as(self.structure, tensors)


def student_inputs(student: keras.Model) -> StudentInputs:
    """What a built student is fed.

    Raises:
        ValueError: It is not built, or an input has a size that is not fixed.
    """
    if not student.built:
        raise ValueError(
            f"Expected a built student. Received: {_called(student)}, which has no weights yet. "
            "Hint: call it once on a batch, or give its first layer an input shape."
        )
    if getattr(student, "inputs", None):
        return _declared_inputs(student)
    return _recorded_inputs(student)


def write_saved_model(
    student: keras.Model, inputs: StudentInputs, folder: str | os.PathLike
) -> Traced:
    """Writes the SavedModel, and returns what is known of it.

    A dict's outputs are called by its keys, several as a list or tuple `output_0`, `output_1`, ...

    Raises:
        ValueError: The outputs are nested, a weight is not finite, or the student needs what a
            SavedModel cannot hold.
    """
    _check_finite(student)
    trainable = [tf.constant(keras.ops.convert_to_numpy(v)) for v in student.trainable_variables]
    others = [tf.constant(keras.ops.convert_to_numpy(v)) for v in student.non_trainable_variables]
    options = inference_arguments(student)
    names: list[str] = []

    def serve(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs, _ = student.stateless_call(
            trainable, others, inputs.packed(list(tensors)), **options
        )
        named = named_outputs(outputs)
        names[:] = named
        # An identity each: one tensor may be two outputs, or an input.
        return {name: tf.identity(tensor) for name, tensor in named.items()}

    module = tf.Module()
    module.serve = tf.function(
        serve,
        input_signature=[tf.TensorSpec(s.shape, s.dtype, name=s.name) for s in inputs.specs],
        autograph=False,
    )
    function = module.serve.get_concrete_function()
    try:
        tf.saved_model.save(module, os.fspath(folder), signatures={SIGNATURE: function})
    except AssertionError as err:  # TensorFlow's own, for a resource that nothing tracks.
        raise ValueError(
            f"Expected a student of layers alone. Received: {_called(student)}, which uses a "
            f"resource, such as a lookup table, that no device takes along ({_first_line(err)}). "
            "Hint: leave preprocessing of text out of the student."
        ) from err
    bits = [
        op.get_attr("num_bits")
        for op in function.graph.get_operations()
        if op.type.startswith("FakeQuant")
    ]
    return Traced(tuple(names), max(bits, default=0))


def _check_finite(student: keras.Model) -> None:
    """Refuses weights that training has spoiled, and ranges that it has never set."""
    spoiled = [
        variable.path
        for variable in student.variables
        if keras.backend.is_float_dtype(variable.dtype)
        and not np.all(np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))))
    ]
    if spoiled:
        raise ValueError(
            f"Expected finite weights. Received: {_called(student)} with NaN or infinity in "
            f"{', '.join(spoiled[:5])}{' ...' if len(spoiled) > 5 else ''}. Hint: train it again "
            "with a smaller learning rate; a `range` of quantization-aware training is set by "
            "quantize_aware(..., calibration=x), or by the first step of a fit."
        )


def named_outputs(outputs: Any) -> dict[str, tf.Tensor]:
    """A student's outputs by the names that the converted model gives them, in its order.

    Raises:
        ValueError: They are nested, or there are none.
    """
    if isinstance(outputs, dict):
        named = {str(key): value for key, value in outputs.items()}
    elif isinstance(outputs, list | tuple):
        named = {f"output_{i}": value for i, value in enumerate(outputs)}
    else:
        named = {"output_0": outputs}
    nested = [name for name, value in named.items() if isinstance(value, dict | list | tuple)]
    if nested or not named:
        raise ValueError(
            "Expected a student with one output, or a flat dict, list or tuple of them. Received: "
            f"{'nested outputs in ' + ', '.join(nested) if nested else 'no output'}. Hint: wrap "
            "it in a keras.Model whose outputs are flat."
        )
    return named


def inference_arguments(student: keras.Model, training: bool = False) -> dict[str, bool]:
    """`training=` for a `call` that takes it; a subclassed model's may not."""
    parameters = inspect.signature(student.call).parameters
    return {"training": training} if "training" in parameters else {}


def in_float32(student: keras.Model) -> keras.Model:
    """The student itself, or, where it computes in another precision, a float32 copy of it.

    The converter fails on the casts of a mixed_float16 model, and its weights are float32 anyway.

    Raises:
        ValueError: It is a subclassed model, which cannot be copied layer by layer, or it was
            quantized by Keras.
    """
    policies = {layer.name: layer.dtype_policy for layer in nested_layers(student)}
    policies[student.name] = student.dtype_policy
    quantized = [name for name, p in policies.items() if p.quantization_mode is not None]
    if quantized:
        raise ValueError(
            "Expected a float student. Received: one with layers quantized by Keras "
            f"({', '.join(sorted(quantized))}). Hint: convert the model from before `quantize`."
        )
    lower = sorted(
        name
        for name, policy in policies.items()
        if policy.compute_dtype.startswith(("float", "bfloat"))
        and (policy.compute_dtype, policy.variable_dtype) != ("float32", "float32")
    )
    if not lower:
        return student
    if not getattr(student, "inputs", None):
        raise ValueError(
            f"Expected a student that computes in float32. Received: {_called(student)}, a "
            f"subclassed model, with other precisions in: {', '.join(lower)}. Hint: build it anew "
            'with dtype="float32" and copy the weights with `set_weights(student.get_weights())`.'
        )
    copy = keras.models.clone_model(
        student,
        clone_function=lambda layer: type(layer).from_config(_float32_config(layer.get_config())),
        recursive=True,
    )
    copy.set_weights(student.get_weights())
    return copy


def nested_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Every layer below this one, in the order they were given, each once.

    Keras walks sublayers by a private method only; this reads the layer's attributes instead.
    """
    seen = {id(layer)}
    stack = list(sublayers(layer))[::-1]
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        stack.extend(list(sublayers(current))[::-1])


def sublayers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """The layers that a layer holds directly, in the order they were given."""
    if isinstance(layer, keras.Model):
        yield from layer.layers
        return
    for value in vars(layer).values():
        if isinstance(value, keras.Layer):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, keras.Layer))
        elif isinstance(value, dict):
            yield from (item for item in value.values() if isinstance(item, keras.Layer))


def _float32_config(config: Any) -> Any:
    """A layer's config with every float dtype policy in it, at any depth, made float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            name = config["config"]["name"]
            return config if name.startswith(("int", "uint", "bool")) else "float32"
        return {key: _float32_config(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_float32_config(item) for item in config)
    return config


def _declared_inputs(student: keras.Model) -> StudentInputs:
    structure = student.inputs if isinstance(student, keras.Sequential) else student.input
    flat = keras.tree.flatten(structure)
    keys = list(structure) if isinstance(structure, dict) else None
    # keras.tree flattens a dict in the order of its sorted keys.
    keys = sorted(keys) if keys and len(keys) == len(flat) else [tensor.name for tensor in flat]
    if isinstance(student, keras.Sequential):
        structure = flat[0]
    shapes = [tuple(tensor.shape) for tensor in flat]
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in flat]
    return StudentInputs(_specs(student, keys, shapes, dtypes), structure)


def _recorded_inputs(student: keras.Model) -> StudentInputs:
    config = student.get_build_config() or {}
    recorded = config.get("input_shape")
    required = [
        p
        for p in inspect.signature(student.call).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if recorded is None or len(required) != 1:
        raise ValueError(
            f"Expected a student of one argument with a known shape. Received: {_called(student)}, "
            f"whose call takes {[p.name for p in required]} and which was built with "
            f"{config or 'no recorded shape'}. Hint: a subclassed student takes one argument, "
            "a tensor or a dict or list of them, and must have been called on it; otherwise wrap "
            "it: keras.Model(inputs, student(...)). Of a Distiller, convert its `.student`."
        )
    if _is_shape(recorded):
        return StudentInputs(_specs(student, ["inputs"], [recorded], ["float32"]), recorded[0])
    if isinstance(recorded, dict):
        keys = sorted(recorded)
        shapes = [recorded[key] for key in keys]
        structure: Any = dict.fromkeys(keys, 0)
    else:
        keys = [f"inputs_{i}" for i in range(len(recorded))]
        shapes = list(recorded)
        structure = [0] * len(recorded)
    dtypes = ["float32"] * len(keys)
    return StudentInputs(_specs(student, keys, shapes, dtypes), structure)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        item is None or isinstance(item, int) for item in value
    )


def _specs(
    student: keras.Model, keys: list[str], shapes: list[tuple], dtypes: list[str]
) -> tuple[InputSpec, ...]:
    loose = {key: shape for key, shape in zip(keys, shapes, strict=True) if None in shape[1:]}
    if loose:
        raise ValueError(
            f"Expected inputs of fixed size but for the batch. Received: {_called(student)} with "
            + ", ".join(f"'{key}' {tuple(shape)}" for key, shape in loose.items())
            + ". Hint: fix the sizes: i = keras.Input((96, 96, 3)); keras.Model(i, student(i))."
        )
    specs = []
    for key, shape, dtype in zip(keys, shapes, dtypes, strict=True):
        # A lower-precision float input stays the float that the float32 copy computes in.
        dtype = "float32" if dtype in ("float16", "bfloat16", "float64") else dtype
        specs.append(InputSpec(key, signature_name(key), (1, *shape[1:]), dtype))
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError(
            "Expected inputs whose names differ in letters, digits and underscores. "
            f"Received: {keys}. Hint: name them with keras.Input(..., name=...)."
        )
    return tuple(specs)


def _called(student: keras.Model) -> str:
    return f"{type(student).__name__} '{student.name}'"


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
