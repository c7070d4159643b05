"""What is saved of a distiller beside its weights: its configuration and its random states."""

import keras
from keras import ops

from keras_kd import schedules

_FUNCTIONS = (
    "teacher_preprocessing",
    "student_preprocessing",
    "teacher_features",
    "student_features",
)


def config_of(distiller):
    """Returns the arguments that make a distiller again, serialized, but for Keras's own.

    A teacher is not among them, but for one that needs a distiller to remember what it knows: of it
    the configuration.

    Args:
        distiller: A `keras_kd.Distiller`.
    """
    serialize = keras.saving.serialize_keras_object
    teacher = distiller._teacher
    fingerprint = distiller._expected_fingerprint
    if teacher is not None and teacher.built:
        fingerprint = teacher.fingerprint()
    own = teacher is not None and teacher.needs_distiller
    return {
        "teacher": serialize(teacher) if own else None,
        "teacher_fingerprint": fingerprint,
        "student": serialize(distiller.student),
        "distillation_losses": [serialize(term.loss) for term in distiller._terms],
        "distillation_loss_weights": [
            schedules.serialize(term.weight) for term in distiller._terms
        ],
        "student_loss_weight": schedules.serialize(distiller.student_loss_weight),
        **{n: getattr(distiller, n) and serialize(getattr(distiller, n)) for n in _FUNCTIONS},
        "evaluate_distillation": distiller.evaluate_distillation,
        "teacher_agreement": distiller._agreement is not None,
    }


def arguments_of(config):
    """Returns the arguments of `Distiller`, and the fingerprint of the teacher that it had.

    Args:
        config: What `Distiller.get_config` gave.
    """
    config = dict(config)
    fingerprint = config.pop("teacher_fingerprint")
    deserialize = keras.saving.deserialize_keras_object
    for name in ("teacher", "student", *_FUNCTIONS):
        config[name] = None if config[name] is None else deserialize(config[name])
    config["distillation_losses"] = [deserialize(c) for c in config["distillation_losses"]]
    config["distillation_loss_weights"] = [
        schedules.deserialize(weight) for weight in config["distillation_loss_weights"]
    ]
    config["student_loss_weight"] = schedules.deserialize(config["student_loss_weight"])
    return config, fingerprint


def check_fingerprint(teacher, expected):
    """Refuses a teacher that is not the one that a distiller was trained with.

    Args:
        teacher: A `keras_kd.teachers.Teacher`.
        expected: The fingerprint of that one.

    Raises:
        ValueError: If it is another.
    """
    found = teacher.fingerprint()
    if found != expected:
        raise ValueError(
            "Expected the teacher that this distiller was trained with, of fingerprint "
            f"{expected[:12]}. Received: '{teacher.name}' of fingerprint "
            f"{(found or 'unknown')[:12]}. Hint: to go on with another teacher make a new "
            "Distiller around distiller.student."
        )


def seed_states(model):
    """Returns the variables that are neither weights nor metrics: those of random layers."""
    others = {id(v) for v in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in others]


def save_seeds(model, store):
    """Puts the seed states of a model into a store of its own variables.

    Args:
        model: A Keras model.
        store: What Keras gives to `save_own_variables`.
    """
    for index, state in enumerate(seed_states(model)):
        store[_seed(index)] = ops.convert_to_numpy(state)


def load_seeds(model, store):
    """Takes the seed states out of a store; returns what else it holds, by name.

    Args:
        model: The Keras model.
        store: What `save_seeds` put them into.

    Raises:
        ValueError: If there are more or fewer than the model has.
    """
    states, names = seed_states(model), list(store.keys())
    seeds = [name for name in names if name.startswith(_seed(""))]
    if len(seeds) != len(states):
        raise ValueError(
            f"Expected {len(states)} seed states in the checkpoint. Received: {len(seeds)}. "
            "Hint: it belongs to a student with other random layers."
        )
    for index, state in enumerate(states):
        state.assign(store[_seed(index)])
    return {name: store[name] for name in names if name not in seeds}


def _seed(index):
    return f"seed_{index}"
