"""The demo's data, models and trainings: everything up to the numbers of one seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from keras_kd.deploy import Artifact
    from keras_kd.deploy.measure import Measurement

# A third of the digits is kept for the test and a third for validation. Of the last third so many
# are used as a first data set of one's own may have; the rest joins the validation split.
TRAIN, THIRD = 200, 599
SPLIT_SEED = 0
CLASSES = 10
BATCH_SIZE = 40
# An epoch is so many passes over the images, each augmented anew: a pass alone is too short.
PASSES = 5
EPOCHS, TEACHER_EPOCHS = 20, 30
LEARNING_RATE, TEACHER_LEARNING_RATE = 0.03, 0.002
TEMPERATURE, STUDENT_LOSS_WEIGHT = 4.0, 0.1
STUDENT_FILTERS, TEACHER_FILTERS = (8, 16), 32
# Degrees, share and pixels that an image is turned, scaled and moved at most.
AUGMENTATION = (10.0, 0.10, 0.75)

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "distilled student"
# Model, format and runtime of each line of the table.
ROWS = (
    (TEACHER, "float32", "litert"),
    (ALONE, "float32", "litert"),
    (ALONE, "int8", "tflm"),
    (DISTILLED, "float32", "litert"),
    (DISTILLED, "int8", "litert"),
    (DISTILLED, "int8", "tflm"),
)
RESULT = ROWS[-1]
COLORS = {TEACHER: 5, ALONE: 1, DISTILLED: 0}
RUNTIME_NAMES = {"litert": "LiteRT", "tflm": "TFLite Micro"}


@dataclasses.dataclass(frozen=True)
class Digits:
    """The three splits: images in [0, 1], shape [n, 8, 8, 1], and class numbers."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a model in one format on one runtime, on the whole test split."""

    model: str
    measured: Measurement
    correct: np.ndarray
    named: np.ndarray
    agreement: float

    @property
    def accuracy(self) -> float:
        """Share of test images that it reads right."""
        return float(self.correct.mean())

    @property
    def key(self) -> tuple[str, str, str]:
        """Model, format and runtime."""
        return self.model, self.measured.quantization, self.measured.runtime


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed: its table, its learning curves, the teacher and the distilled student."""

    seed: int
    rows: tuple[Row, ...]
    curves: dict[str, tuple[float, ...]]
    teacher: Any
    student: Any
    artifact: Artifact

    def row(self, key: tuple[str, str, str]) -> Row:
        """The row of one model, format and runtime."""
        return next(row for row in self.rows if row.key == key)


def load_digits() -> Digits:
    """scikit-learn's 1797 real digits, in three stratified splits that are always the same."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as err:
        raise ImportError(
            f"Expected scikit-learn, which has the digits. It is not installed ({err}). "
            "Hint: pip install keras-kd[demo]"
        ) from err
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels.reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    y = labels.astype("int32")

    def split(x, y, count):
        return train_test_split(x, y, train_size=count, stratify=y, random_state=SPLIT_SEED)

    x_pool, x_rest, y_pool, y_rest = split(x, y, THIRD)
    x_validation, x_test, y_validation, y_test = split(x_rest, y_rest, THIRD)
    x_train, x_more, y_train, y_more = split(x_pool, y_pool, TRAIN)
    return Digits(
        *(x_train, y_train),
        *(
            np.concatenate([x_validation, x_more]),
            np.concatenate([y_validation, y_more]),
        ),
        *(x_test, y_test),
    )


def _convolutions(filters: Sequence[tuple[int, int]], dropout: float, name: str) -> Any:
    import keras

    x = inputs = keras.Input((8, 8, 1), name="image")
    for count, stride in filters:
        x = keras.layers.Conv2D(count, 3, stride, padding="same", use_bias=False)(x)
        # Fewer steps than the default momentum of 0.99 wants.
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def make_teacher() -> Any:
    """Four convolutions, 75,818 parameters; ends in logits."""
    f = TEACHER_FILTERS
    return _convolutions([(f, 1), (f, 1), (2 * f, 2), (2 * f, 1)], dropout=0.3, name="teacher")


def make_student() -> Any:
    """Two strided convolutions; ends in logits."""
    return _convolutions([(f, 2) for f in STUDENT_FILTERS], dropout=0.0, name="student")


def augmentation(degrees: float, zoom: float, pixels: float) -> Any:
    """A function `(images, seed) -> images` that turns, scales and moves each image a little."""
    import tensorflow as tf

    def augment(images, seed):
        count = tf.shape(images)[0]
        r = tf.random.stateless_uniform([count, 4], seed) * 2.0 - 1.0
        angle = r[:, 0] * (degrees * math.pi / 180.0)
        scale = 1.0 + zoom * r[:, 1]
        cos, sin, center = tf.cos(angle) / scale, tf.sin(angle) / scale, 3.5
        zero = tf.zeros_like(cos)
        # Output (x, y) is read at (cos x - sin y + .., sin x + cos y + ..): about the center.
        right = center - center * cos + center * sin + pixels * r[:, 2]
        down = center - center * sin - center * cos + pixels * r[:, 3]
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack([cos, -sin, right, sin, cos, down, zero, zero], axis=1),
            output_shape=tf.shape(images)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )

    return augment


def steps_of(digits: Digits) -> int:
    """Steps of one epoch."""
    return math.ceil(PASSES * len(digits.x_train) / BATCH_SIZE)


def _fit(
    model: Any, digits: Digits, *, seed: int, epochs: int, rate: float, title: str
) -> tuple[float, ...]:
    """Trains a Keras model or a distiller; returns the validation accuracy after each epoch."""
    import keras

    from keras_kd.data import replayable, with_epoch_told

    steps = steps_of(digits)
    data = replayable(
        np.tile(digits.x_train, (PASSES, 1, 1, 1)),
        np.tile(digits.y_train, PASSES),
        batch_size=BATCH_SIZE,
        seed=seed,
        augment=augmentation(*AUGMENTATION),
    )
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    history = model.fit(
        data,
        epochs=epochs,
        validation_data=(digits.x_validation, digits.y_validation),
        validation_batch_size=len(digits.x_validation),
        shuffle=False,  # `data` is shuffled already.
        verbose=0,
        callbacks=with_epoch_told([_progress(title, epochs)], data),
    )
    return tuple(float(value) for value in history.history["val_accuracy"])


def _progress(title: str, epochs: int) -> Any:
    """A callback: one progress bar for a whole training, as against one for each epoch."""
    import keras

    class Progress(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            print(title, flush=True)
            names = ["val_accuracy"]
            self.bar = keras.utils.Progbar(epochs, stateful_metrics=names, unit_name="epoch")

        def on_epoch_end(self, epoch, logs=None):
            self.bar.update(epoch + 1, [("val_accuracy", (logs or {})["val_accuracy"])])

    return Progress()


def one_run(digits: Digits, seed: int, epochs: int, teacher_epochs: int) -> Run:
    """Trains, converts and measures with one seed."""
    import keras

    import keras_kd

    curves = {}
    keras.utils.set_random_seed(seed)
    models = {TEACHER: make_teacher()}
    curves[TEACHER] = _fit(
        models[TEACHER],
        digits,
        seed=seed,
        epochs=teacher_epochs,
        rate=TEACHER_LEARNING_RATE,
        title=f"Training the teacher: {models[TEACHER].count_params():,} parameters",
    )
    for name in (ALONE, DISTILLED):
        keras.utils.set_random_seed(seed)
        student = trained = models[name] = make_student()
        if name == DISTILLED:
            trained = keras_kd.Distiller(
                models[TEACHER],
                student,
                keras_kd.LogitsDistillation(TEMPERATURE),
                student_loss_weight=STUDENT_LOSS_WEIGHT,
                evaluate_distillation=False,
            )
        curves[name] = _fit(
            trained,
            digits,
            seed=seed,
            epochs=epochs,
            rate=LEARNING_RATE,
            title=f"Training the {name}: {student.count_params():,} parameters",
        )
    artifacts = _converted(digits, models)
    rows = tuple(_rows(digits, models, artifacts))
    return Run(
        *(seed, rows, curves),
        *(models[TEACHER], models[DISTILLED]),
        artifacts[DISTILLED, "int8"],
    )


def _converted(digits: Digits, models: dict[str, Any]) -> dict[tuple[str, str], Artifact]:
    """Every model in each format that `ROWS` names."""
    import keras

    from keras_kd.deploy import convert

    wanted = list(dict.fromkeys((model, quantization) for model, quantization, _ in ROWS))
    print("Converting to TFLite", flush=True)
    bar = keras.utils.Progbar(len(wanted), unit_name="model")
    artifacts = {}
    for number, (name, quantization) in enumerate(wanted):
        integer = quantization == "int8"
        artifacts[name, quantization] = convert(
            models[name],
            quantization=quantization,
            calibration=digits.x_train if integer else None,
            input_range=(0.0, 1.0) if integer else None,
        )
        bar.update(number + 1)
    return artifacts


def _rows(
    digits: Digits, models: dict[str, Any], artifacts: dict[tuple[str, str], Artifact]
) -> Iterator[Row]:
    """What each line of the table says, measured."""
    import keras

    from keras_kd.deploy.judgement import agreement
    from keras_kd.deploy.measure import observe

    print(f"Running {len(digits.x_test)} test images on each runtime", flush=True)
    as_keras = {name: np.asarray(model(digits.x_test)) for name, model in models.items()}
    bar = keras.utils.Progbar(len(ROWS), unit_name="model")
    for number, (name, quantization, runtime) in enumerate(ROWS):
        (seen,) = observe(
            artifacts[name, quantization],
            digits.x_test,
            digits.y_test,
            runtimes=(runtime,),
            progress=False,
        )
        same = agreement(as_keras[name], seen.outputs) or 0.0
        measured = dataclasses.replace(seen.measurement, agreement=same)
        yield Row(name, measured, np.asarray(seen.scores, bool), seen.outputs.argmax(-1), same)
        bar.update(number + 1)
