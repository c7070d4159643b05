"""A model's graph as a list of calls: run on values, it computes what the model does."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_kd.graph import graph_of, walk
from tests.graphs import computed

SHAPE = (5, 4)


def nested(x):
    inner = keras.Input(SHAPE)
    model = keras.Model(inner, layers.Dense(4, name="inner")(inner), name="nested")
    return model(inputs=model(x) + 1.0)


def nested_twice(x):
    inner = keras.Input(SHAPE)
    sequential = keras.Sequential([keras.Input(SHAPE), layers.Dense(4), layers.ReLU()])
    return keras.Model(inner, sequential(layers.Dense(4)(inner)))(x)


def of_several(x):
    first, second = keras.Input(SHAPE, name="first"), keras.Input(SHAPE, name="second")
    model = keras.Model([second, first], {"sum": first + 2.0 * second, "second": second})
    # Keras takes what is in a dict by name, where the model itself has a list of inputs.
    outputs = model({"second": x, "first": ops.relu(x)})
    return layers.Concatenate()([outputs["sum"], outputs["second"]])


def twins(x):
    """Two tensors of one shape, made by a layer that is called twice."""
    shared = layers.Dense(4)
    return {"b": shared(x), "a": [shared(ops.tanh(x)), x]}


CASES = {
    "nested": nested,
    "nested_twice": nested_twice,
    "several": of_several,
    "shared": twins,
    "by_name": lambda x: layers.MultiHeadAttention(2, 3)(key=x, value=x + 1.0, query=2.0 * x),
    "two_outputs": lambda x: layers.LSTM(3, return_state=True)(x)[1:],
    "input": lambda x: keras.Model(i := keras.Input(SHAPE), i)(x),
    "operations": lambda x: ops.concatenate([x, 1.0 - x], axis=-1)[:, 1:],
}


def model_of(name):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, CASES[name](inputs))


def named(graph):
    return [call.operation.name for call in graph.calls]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("open_up", [True, False])
def test_it_computes_what_the_model_does(name, open_up):
    model = model_of(name)
    x = ops.cast(np.random.default_rng(0).normal(size=(2, *SHAPE)), "float32")
    graph = graph_of(model, open_up=open_up)
    found, expected = computed(graph, x), model(x)
    keras.tree.assert_same_structure(found, expected)
    # The same float32 operations, of numbers below 10; a compiled one may add in another order.
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )
    models = [call for call in graph.calls if isinstance(call.operation, keras.Model)]
    assert bool(models) == (not open_up and any(isinstance(x, keras.Model) for x in model.layers))


def test_it_is_made_of_the_models_own_layers():
    model = model_of("shared")
    used = {id(call.operation) for call in graph_of(model).calls}
    assert used == {id(operation) for operation in model.operations[1:]}


def test_a_sequential_model():
    model = keras.Sequential(
        [keras.Input(SHAPE, name="series"), layers.Dense(3, name="a"), layers.ReLU(name="b")]
    )
    graph = graph_of(model)
    assert named(graph) == ["a", "b"]
    assert (graph.inputs.name, graph.outputs.shape) == ("series", (None, 5, 3))


def test_inputs_have_the_names_of_their_layers():
    one, other = keras.Input((2,)), keras.Input((2,), dtype="int32", name="other")
    model = keras.Model([one, [other]], layers.Concatenate()([one, other]))
    first, (second,) = graph_of(model).inputs
    assert first.name == model.layers[0].name != one.name
    assert (second.name, second.dtype) == ("other", "int32")


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_sizes_that_an_einsum_leaves_open_are_those_of_its_input(dtype):
    inputs = keras.Input((7, 3, 4))
    layer = layers.EinsumDense("abcd,df->acbf", (None, None, 5), dtype=dtype)
    graph = graph_of(keras.Model(inputs, layers.ReLU(dtype=dtype)(layer(inputs))))
    assert [call.output.shape for call in graph.calls] == [(None, 3, 7, 5)] * 2
    told = {"float32": "float32", "mixed_float16": "float16"}[dtype]
    assert [call.output.dtype for call in graph.calls] == [told] * 2


def test_who_reads_a_tensor():
    graph = graph_of(model_of("shared"))
    tanh, dense, again = graph.calls
    consumers = graph.consumers()
    assert consumers[graph.inputs] == [tanh, dense, None]
    assert consumers[tanh.output] == [again]
    assert consumers[dense.output] == consumers[again.output] == [None]


def test_a_call_on_other_tensors():
    (call,) = graph_of(model_of("two_outputs")).calls
    other = keras.Input(SHAPE)
    moved = call.on({call.inputs[0]: other})
    assert moved.inputs == (other,)
    assert moved.outputs == call.outputs
    assert call.output is call.outputs[0]


def test_a_subclassed_model_inside_is_a_call_as_a_layer_is():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs + 1.0

    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.ReLU(name="behind")(Own(name="own")(inputs)))
    assert named(graph_of(model)) == ["own", "behind"]


def test_a_mask_that_layers_hand_on_is_there_too():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(tokens)
    graph = graph_of(keras.Model(tokens, layers.LSTM(3)(x)))
    embedding, not_equal, lstm = graph.calls
    assert lstm.inputs == (embedding.output, not_equal.output)


@pytest.mark.parametrize("name", ["nested", "shared"])
def test_the_model_stays_as_it_is(name):
    model = model_of(name)
    called = [len(operation._inbound_nodes) for operation in model.operations]
    # A clone of a compiled model is compiled too, for which Keras would have to read this lambda.
    model.compile("sgd", loss=lambda y_true, y_pred: y_pred)
    config = model.get_config()
    graph_of(model)
    assert model.get_config() == config
    assert [len(operation._inbound_nodes) for operation in model.operations] == called


def test_a_walk_asks_for_one_stand_in_of_each_operation():
    asked, called = [], []

    class StandIn(keras.Operation):
        def __init__(self, operation):
            super().__init__(name=operation.name)
            asked.append(operation.name)
            self.compute_output_spec = operation.compute_output_spec

        def call(self, *args, **kwargs):
            raise NotImplementedError

    def run(stand_in, *args, **kwargs):
        called.append(stand_in.name)
        return stand_in(*args, **kwargs)

    model = model_of("nested")
    inputs, outputs = walk(model, StandIn, run)
    assert called == ["nested", "add", "nested"] == [*asked, "nested"]
    assert (inputs.shape, outputs.shape) == (model.input_shape, model.output_shape)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "resnet", "a keras.Model as teacher. Received: str"),
        (lambda: keras.Sequential([layers.Dense(2)]), "built Functional or Sequential teacher"),
        (lambda: type("Own", (keras.Model,), {})(), "an? Own whose graph is not known. Hint"),
    ],
)
def test_refused(model, message):
    with pytest.raises(ValueError, match=message):
        graph_of(model(), "teacher")
