import keras
import pytest
from keras import layers

import keras_kd


def net(channels, name):
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(channels, 3, name="conv")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)), name=name)


@pytest.fixture
def distiller():
    return keras_kd.Distiller(
        net(8, "big"),
        net(2, "tiny"),
        [
            keras_kd.LogitsDistillation(),
            keras_kd.FeatureDistillation("mse", "conv", "conv", name="hint"),
        ],
        distillation_loss_weights=[keras_kd.schedules.Linear(0.0, 1.0, 9), 0.25],
        student_loss_weight=0.1,
    )


def printed(distiller):
    lines = []
    distiller.summary(print_fn=lines.append)
    return "\n".join(lines)


def test_tells_what_is_taught_to_whom(distiller):
    text = printed(distiller)
    # 8 * 9 + 8 weights of the convolution, 6 * 6 * 8 * 3 + 3 of the dense layer; then with 2.
    assert "'big', 947 parameters" in text
    assert "'tiny', 239 parameters, 4.0 times smaller" in text
    assert "total = 0.1 * task + 0.9 * distillation" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["logits_distillation"][1:] == ["Linear", "outputs", "outputs", "-"]
    hint = " ".join(rows["hint"][1:])
    assert "0.25 conv (None, 6, 6, 8) conv (None, 6, 6, 2) Conv2D, 24 parameters" in hint


def test_after_loading_the_teacher_is_missed(distiller, tmp_path):
    distiller.save(tmp_path / "distiller.keras")
    text = printed(keras.models.load_model(tmp_path / "distiller.keras"))
    assert "teacher  none (give it back by distiller.teacher = model)" in text
    assert "'tiny', 239 parameters" in text


def test_what_is_not_known_yet_is_said():
    student = keras.Sequential([layers.Flatten(), layers.Dense(3)], name="later")
    distiller = keras_kd.Distiller(net(8, "big"), student, keras_kd.LogitsDistillation())
    text = printed(distiller)
    assert "'later', not built yet" in text
    assert "not known yet" in text
