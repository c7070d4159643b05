"""Which layers of teacher and student could be paired, and why."""

import dataclasses
import itertools

import keras

from keras_kd import heads
from keras_kd.features import SEPARATOR, FeatureReader

# They change a map's size for the sake of the next layer, or stand where nothing is learned yet.
_PASSED_OVER = (
    keras.layers.InputLayer,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
)
_ATTENTION = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.Attention,
)
# They have weights, and belong to the layer before.
_AFTER = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.PReLU,
)
_ANSWERS = (heads.SOFTMAX, heads.SIGMOID)


@dataclasses.dataclass(frozen=True)
class LayerPair:
    """A layer of the teacher and one of the student that could be held against each other.

    Attributes:
        teacher: Layer path in the teacher.
        student: Layer path in the student.
        teacher_shape: Shape of the teacher's feature.
        student_shape: Shape of the student's feature.
        why: Why they are paired.
    """

    teacher: str
    student: str
    teacher_shape: tuple
    student_shape: tuple
    why: str

    def __str__(self):
        """Returns the pair with its shapes and the reason."""
        return (
            f"{self.teacher} {self.teacher_shape} -> {self.student} {self.student_shape}: "
            f"{self.why}"
        )


class LayerPairs(list):
    """A list of `LayerPair`, the shallowest first, that prints one pair a line."""

    @property
    def teacher_layers(self):
        """The paths of the teacher's layers, for losses that take a list of them."""
        return [pair.teacher for pair in self]

    @property
    def student_layers(self):
        """The paths of the student's layers."""
        return [pair.student for pair in self]

    def __str__(self):
        """Returns a text of one line for each pair."""
        return "\n".join(map(str, self))


@dataclasses.dataclass(frozen=True)
class _Place:
    """A layer that can be named: its path, its shape, and where it stands."""

    path: str
    layer: keras.Layer
    shape: tuple
    depth: float

    @property
    def size(self):
        return self.shape[1:-1]


@dataclasses.dataclass(frozen=True)
class _Stage:
    """The layer that stands for a stage of a model, and of how many layers it is the last."""

    place: _Place
    count: int


def suggest_layers(teacher, student, count=None, *, print_fn=None):
    """Suggests which layers of teacher and student to pair, the shallowest first.

    Two transformers are paired block by block, by relative depth. Other models are paired stage by
    stage: a stage is all that has maps (or sequences) of one size, its last layer stands for it,
    and stages of equal size meet. Where no size is equal, stages meet that are as many times
    smaller than their inputs. Models without maps are paired by relative depth.

    It is a suggestion to start from: which layers teach best is for an experiment to say.

    Args:
        teacher: A built Functional or Sequential model; nested ones are looked into.
        student: The same.
        count: How many pairs, spread evenly over those there are with the deepest among them; None
            for all.
        print_fn: Called with the text; None for no text. `print` shows the result as well.

    Returns:
        `LayerPairs`, a list of `LayerPair`.

    Raises:
        ValueError: If a model cannot be looked into, a size is not fixed, the models have no stage
            in common, or fewer pairs than `count`.

    Example:
        >>> pairs = keras_kd.suggest_layers(teacher, student, print_fn=print)
        >>> loss = keras_kd.losses.get(
        ...     "reviewkd",
        ...     teacher_layer_name=pairs.teacher_layers,
        ...     student_layer_name=pairs.student_layers,
        ... )
    """
    places = _places(teacher, "teacher"), _places(student, "student")
    blocks = tuple(map(_blocks, places))
    if all(blocks):
        found = _by_depth(*blocks, "block")
    elif any(_maps(side) for side in places):
        found = _by_size(places, (teacher, student))
    else:
        found = _by_depth(*map(_hidden, places), "hidden layer")
    if not found:
        raise ValueError(
            "Expected models with a stage in common. Received: "
            f"teacher '{teacher.name}' with {_sizes(places[0])}, student '{student.name}' with "
            f"{_sizes(places[1])}. Hint: name a layer of each and give the loss a projector of "
            "your own."
        )
    if count is not None:
        if not 1 <= count <= len(found):
            raise ValueError(
                f"Expected count from 1 to {len(found)}, the pairs there are. Received: {count!r}"
            )
        found = [found[index] for index in _spread(count, len(found))]
    pairs = LayerPairs(found)
    if print_fn is not None:
        print_fn(str(pairs))
    return pairs


# What there is in a model


def _places(model, role):
    """Returns the layers of a model that a loss can name, in the order of its graph."""
    if not (heads.is_functional(model) or isinstance(model, keras.Sequential)):
        raise ValueError(
            f"Expected a Functional or Sequential {role} to look into. Received '{model.name}', a "
            f"{type(model).__name__} with its own call(). Hint: name its features yourself, with "
            f"keras_kd.Distiller({role}_features=...)."
        )
    if not model.built or heads.symbolic_outputs(model) is None:
        raise ValueError(
            f"Expected a built {role}. Received '{model.name}', whose shapes are not known yet. "
            f"Hint: {model.name}.build(input_shape), or begin it with an Input."
        )
    layers = dict(_walk(model, ""))
    answers = set(_answers(model))
    shapes = _shapes(model, [path for path in layers if path not in answers], role)
    learned = [bool(layer.weights) for layer in layers.values()]
    places, total = [], sum(learned) or 1
    for index, (path, layer) in enumerate(layers.items()):
        if path in shapes and len(shapes[path]) > 1 and any(learned[: index + 1]):
            depth = sum(learned[: index + 1]) / total
            places.append(_Place(path, layer, shapes[path], depth))
    return places


def _walk(model, prefix):
    for layer in model.layers:
        path = prefix + layer.name
        if heads.is_functional(layer) or isinstance(layer, keras.Sequential):
            yield from _walk(layer, path + SEPARATOR)
        elif not isinstance(layer, _PASSED_OVER):
            yield path, layer


def _answers(model):
    """Returns the paths of the layers that are outputs of a model behind a softmax or sigmoid."""
    activations = keras.tree.flatten(heads.activations(model))
    sequential = isinstance(model, keras.Sequential)
    names = [model.layers[-1].name] if sequential else model.output_names
    inside = {layer.name: layer for layer in model.layers}
    for name, activation in zip(names, activations, strict=False):
        layer = inside.get(name)
        if heads.is_functional(layer) or isinstance(layer, keras.Sequential):
            yield from (name + SEPARATOR + path for path in _answers(layer))
        elif activation in _ANSWERS:
            yield name


def _shapes(model, paths, role):
    """Returns {path: shape}, without the layers that no loss can read.

    Those are the ones with several outputs and the ones that are called several times; where there
    are some, halving finds them.
    """
    if not paths:
        return {}
    try:
        features = FeatureReader(model, paths, role=role).features
    except ValueError:
        half = len(paths) // 2
        if not half:
            return {}
        return {**_shapes(model, paths[:half], role), **_shapes(model, paths[half:], role)}
    return {path: tuple(feature.shape) for path, feature in features.items()}


# Stages


def _maps(places):
    """Returns the places with positions, of which there are more than one."""
    return [place for place in places if len(place.shape) > 2 and place.size != (1, 1)]


def _stages(places):
    """Returns {size: the last place of that size}, in the order of depth."""
    members: dict = {}
    for place in _maps(places):
        members.setdefault(place.size, []).append(place)
    stages = [_Stage(same[-1], len(same)) for same in members.values()]
    stages.sort(key=lambda stage: stage.place.depth)
    return {stage.place.size: stage for stage in stages}


def _by_size(places, models):
    stages = tuple(map(_stages, places))
    for role, side in zip(("teacher", "student"), stages, strict=True):
        for size, stage in side.items():
            if None in size:
                raise ValueError(
                    f"Expected a {role} of a fixed size, to tell its stages apart. Received: "
                    f"'{stage.place.path}' of shape {stage.place.shape}. Hint: give it an Input of "
                    "a fixed size."
                )
    common = [size for size in stages[1] if size in stages[0]]
    if common:
        return [_pair_of_stages(stages[0][size], stages[1][size], "both") for size in common]
    by_factor = [
        {factor: stage for size, stage in side.items() if (factor := _factor(model, size))}
        for side, model in zip(stages, models, strict=True)
    ]
    return [
        _pair_of_stages(by_factor[0][factor], stage, f"both {_times(factor)} times smaller")
        for factor, stage in by_factor[1].items()
        if factor in by_factor[0]
    ]


def _factor(model, size):
    """Returns how many times smaller than its input a size is, axis by axis; None if unknown."""
    inputs = keras.tree.flatten(model.inputs)
    wanted = tuple(inputs[0].shape[1:-1])
    if len(inputs) != 1 or len(wanted) != len(size) or None in wanted:
        return None
    return tuple(round(old / new) for old, new in zip(wanted, size, strict=True))


def _pair_of_stages(teacher, student, how):
    sizes = [_times(stage.place.size) for stage in (teacher, student)]
    if how == "both":
        text = f"both the last of their size, {sizes[0]}"
    else:
        text = f"{how} than the input, {sizes[0]} and {sizes[1]}, and the last of that size"
    counts = f"of {teacher.count} and {student.count} layers"
    return _pair(teacher.place, student.place, f"{text} ({counts})")


def _times(size):
    return " x ".join(map(str, size))


def _sizes(places):
    sizes = [_times(size) for size in _stages(places)]
    return f"stages of {', '.join(sizes)}" if sizes else "no maps or hidden layers"


# Depth


def _blocks(places):
    """Returns the place that ends each block of a transformer, [] for other models.

    A block is a layer of its own class that gives sequences, where there are several of that class;
    else it begins with an attention and ends with the last `Add` before the next one.
    """
    sequences = [place for place in places if len(place.shape) == 3]
    own = [place for place in sequences if not type(place.layer).__module__.startswith("keras.")]
    classes = [type(place.layer) for place in own]
    made = [place for place in own if place.layer.weights and classes.count(type(place.layer)) > 1]
    if made:
        # Those of the last kind: embeddings come before the blocks.
        return [place for place in made if type(place.layer) is type(made[-1].layer)]
    starts = [i for i, place in enumerate(sequences) if isinstance(place.layer, _ATTENTION)]
    ends = []
    for start, stop in itertools.pairwise([*starts, len(sequences)]):
        members = [p for p in sequences[start:stop] if p.shape == sequences[start].shape]
        added = [place for place in members if isinstance(place.layer, keras.layers.Add)]
        ends.append((added or members)[-1])
    return ends


def _hidden(places):
    """Returns the last place behind each layer with a kernel, without the one that answers."""
    ends: list = []
    for place in places:
        if ends and (not place.layer.weights or isinstance(place.layer, _AFTER)):
            ends[-1] = place
        else:
            ends.append(place)
    return ends if not ends or ends[-1].depth < 1.0 else ends[:-1]


def _by_depth(teachers, students, what):
    """Pairs each of the shorter list with the one of the longer at its relative depth."""
    count = min(len(teachers), len(students))
    sides = [[(i, side[i]) for i in _spread(count, len(side))] for side in (teachers, students)]
    return [
        _pair(
            teacher,
            student,
            f"{what} {t + 1} of {len(teachers)} and {what} {s + 1} of {len(students)}",
        )
        for (t, teacher), (s, student) in zip(*sides, strict=True)
    ]


def _spread(count, total):
    """Returns `count` of the indices below `total`, evenly spread, the last one among them."""
    return [-(-(index + 1) * total // count) - 1 for index in range(count)]


def _pair(teacher, student, why):
    depths = f"{teacher.depth:.0%} and {student.depth:.0%} deep"
    return LayerPair(
        teacher.path, student.path, teacher.shape, student.shape, f"{why}; {depths} in weights"
    )
