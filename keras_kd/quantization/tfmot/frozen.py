"""A tf_keras model as a Keras 3 model that computes the same and learns no more."""

import keras
import tensorflow as tf

from keras_kd.quantization.tfmot.wrappers import check_model


def frozen(model):
    """Returns a Keras 3 model that computes what a trained tf_keras model does in inference.

    It is what `keras_kd.deploy` takes in place of a quantized student: the weights, and the ranges
    that it has learned, are constants in its graph. It has no weights of its own, and is neither
    trained nor saved.

    Args:
        model: A tf_keras model with a graph, such as `quantize` gives; stays as it is.

    Returns:
        A functional `keras.Model` with the inputs and outputs of the model.

    Raises:
        TypeError: If it is no tf_keras model.

    Example:
        >>> student = tfmot.frozen(distiller.student)
        >>> keras_kd.deploy.convert(student, "student.tflite", quantization="int8")
    """
    check_model(model)
    inputs = tf.nest.map_structure(
        lambda tensor: keras.Input(
            batch_shape=tuple(tensor.shape), dtype=tensor.dtype.name, name=tensor.name
        ),
        model.input,
    )
    return keras.Model(inputs, _Frozen(model)(inputs), name=model.name)


class _Frozen(keras.Layer):
    """Computes what a tf_keras model does now, with constants in place of its variables."""

    def __init__(self, model):
        super().__init__(name=f"frozen_{model.name}", trainable=False, dtype="float32")
        self._in_graph = _Constants(model)
        self._eagerly = tf.function(self._in_graph, autograph=False)

    def call(self, inputs):
        """Returns the model's outputs, in their structure."""
        # Straight into a graph that is being made, where `deploy.convert` looks for the ranges.
        return (self._eagerly if tf.executing_eagerly() else self._in_graph)(inputs)


class _Constants:
    """The graph of a model in inference, with the values of its variables for these.

    A plain object, so that neither Keras tracks a part of the model.
    """

    def __init__(self, model):
        inputs = tf.nest.flatten(model.input)

        def run(*tensors):
            return model(tf.nest.pack_sequence_as(model.input, tensors), training=False)

        function = tf.function(run, autograph=False).get_concrete_function(
            *(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs)
        )
        outputs = function.structured_outputs
        self._output_names = [tensor.name for tensor in tf.nest.flatten(outputs)]
        self._structure = tf.nest.map_structure(lambda _: None, outputs)
        placeholders = [tensor.op.name for tensor in function.inputs]
        self._input_names = [f"{name}:0" for name in placeholders[: len(inputs)]]
        captured = dict(zip(placeholders[len(inputs) :], function.captured_inputs, strict=True))
        self._graph = function.graph.as_graph_def()
        nodes = [
            _constant(node, captured) for node in self._graph.node if node.name not in placeholders
        ]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def __call__(self, inputs):
        given = dict(zip(self._input_names, tf.nest.flatten(inputs), strict=True))
        outputs = tf.graph_util.import_graph_def(
            self._graph, input_map=given, return_elements=self._output_names, name=""
        )
        return tf.nest.pack_sequence_as(self._structure, outputs)


def _constant(node, captured):
    """Returns a node of a graph, or for one that reads a variable its value.

    Args:
        node: A `NodeDef`.
        captured: The tensors, of variables mostly, that the graph has from outside, by the names of
            the nodes that stand for them.

    Raises:
        ValueError: If it uses a variable otherwise.
    """
    used = [captured[name] for name in node.input if name in captured]
    if not used:
        return node
    if node.op != "ReadVariableOp":
        raise ValueError(
            f"Expected a model whose layers read their weights as they are. Received: {node.op} "
            f"'{node.name}', as of an Embedding. Hint: strip a pruned or clustered model and take "
            "it back to Keras 3 by to_keras."
        )
    dtype = tf.as_dtype(node.attr["dtype"].type)
    value = tf.raw_ops.ReadVariableOp(resource=used[0], dtype=dtype)
    constant = tf.compat.v1.NodeDef(name=node.name, op="Const")
    constant.attr["dtype"].CopyFrom(node.attr["dtype"])
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy(), dtype))
    return constant
