import keras
import numpy as np
import pytest

import keras_kd
from keras_kd.losses import Context, get
from keras_kd.losses.feature import FlowOfSolution, flow_of_solution
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    adaptive_pool,
    check_compiled,
    check_safe,
    maps,
)
from tests.models import images, snapshot, task_loss


def gram(first, second, reduce):
    size = tuple(map(min, first.shape[1:3], second.shape[1:3]))
    first, second = adaptive_pool(first, size, reduce), adaptive_pool(second, size, reduce)
    return np.einsum("nhwc,nhwd->ncd", first, second) / (size[0] * size[1])


@pytest.mark.parametrize(("pooling", "reduce"), [("max", np.max), ("average", np.mean)])
@pytest.mark.parametrize(
    "sizes", [((6, 4), (6, 4)), ((6, 4), (3, 2)), ((3, 2), (6, 4)), ((7, 5), (4, 3))]
)
def test_value(pooling, reduce, sizes, rng):
    """The student's maps have a third size, both alike."""
    teacher = maps(rng, (3, *sizes[0], 5), (3, *sizes[1], 2))
    student = maps(rng, (3, 4, 4, 5), (3, 4, 4, 2))
    expected = np.square(gram(*teacher, reduce) - gram(*student, reduce)).mean((1, 2))
    result = flow_of_solution(teacher=teacher, student=student, pooling=pooling)
    np.testing.assert_allclose(result, expected, rtol=RTOL)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_it_is_safe(pooling, rng):
    (other,) = maps(rng, (3, 3, 2, 2))

    def function(teacher, student):
        return flow_of_solution(teacher=(teacher, other), student=(student, other), pooling=pooling)

    teacher, student = maps(rng, (3, 6, 4, 5), (3, 7, 4, 5))
    check_safe(function, teacher, student)
    assert not np.any(function(teacher, teacher))


def test_it_compiles(rng):
    def function(teacher, student):
        return flow_of_solution(
            teacher=(teacher, teacher[:, :3]), student=(student, student[:, :2])
        )

    check_compiled(function, *maps(rng, (3, 6, 4, 5), (3, 4, 3, 5)))


def test_nothing_broadcasts(rng):
    teacher, student = maps(rng, (3, 4, 4, 5), (3, 4, 4, 1))
    with pytest.raises(ValueError, match=r"equal shapes.*projector='auto' makes channels equal"):
        flow_of_solution(teacher=(teacher, teacher), student=(student, student))


def test_matrices_are_summed(rng):
    teacher = maps(rng, *[(3, 4, 4, 5)] * 4)
    student = maps(rng, *[(3, 4, 4, 5)] * 4)
    loss = FlowOfSolution(["a", "b", "c", "d"], ["e", "f", "g", "h"], projector=None)
    expected = sum(
        flow_of_solution(teacher=teacher[i : i + 2], student=student[i : i + 2]) for i in (0, 2)
    )
    result = loss.per_example(teacher, student, Context())
    np.testing.assert_allclose(result, expected, rtol=RTOL)


def test_configuration():
    loss = get(
        "fsp",
        teacher_layer_name=["a", "b"],
        student_layer_name=["c", "d"],
        pooling="average",
        projector=["auto", None],
    )
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is FlowOfSolution
    assert keras.saving.serialize_keras_object(again) == config
    assert again.pooling == "average"


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ("a", {}, "a list of two layers of the teacher.*Received: 'a'"),
        (["a"], {}, r"a list of two layers of the teacher.*Received: \['a'\]"),
        (["a", "b", "c"], {}, "two for each matrix"),
        ([], {}, "two for each matrix"),
        (["a", "b"], {"pooling": "median"}, r"pooling to be one of \('max', 'average'\)"),
    ],
)
def test_bad_arguments(layers, options, message):
    with pytest.raises(ValueError, match=message):
        FlowOfSolution(layers, layers, **options)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_the_paper_trains_in_two_stages():
    teacher, student = image_model("teacher", 6), image_model("student", 4)
    x, y = images()
    loss = FlowOfSolution(["low", "high"], ["low", "high"])
    stage = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
    stage.compile(keras.optimizers.Adam(1e-2))
    before = snapshot(*stage.projectors)
    losses = stage.fit(x, y, epochs=8, verbose=0).history["flow_of_solution"]
    assert losses[-1] < losses[0]
    after = snapshot(*stage.projectors)
    assert len(stage.projectors) == 2
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    student.compile(keras.optimizers.Adam(1e-2), task_loss())
    losses = student.fit(x, y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
