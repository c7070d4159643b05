"""Projectors: small trainable adapters from the student's features to the teacher's.

A projector is made where shapes differ, trained along with the student, kept in the distiller's
checkpoints and never part of the student.
"""

import keras
from keras import layers

_CONVOLUTION = {3: layers.Conv1D, 4: layers.Conv2D, 5: layers.Conv3D}
_POOLING = {3: layers.AveragePooling1D, 4: layers.AveragePooling2D, 5: layers.AveragePooling3D}
_GLOBAL_POOLING = {
    3: layers.GlobalAveragePooling1D,
    4: layers.GlobalAveragePooling2D,
    5: layers.GlobalAveragePooling3D,
}


def make_projector(student_shape, teacher_shape, name="projector"):
    """Makes the projector that turns a feature of one shape into one of another.

    Equal shapes need none. A larger map is average-pooled if its size is a multiple of the
    teacher's; other sizes of maps are resized bilinearly; other channel counts pass a 1x1
    convolution (a dense layer for vectors); a map facing a vector is pooled globally.

    Args:
        student_shape: Shape of the student's feature, [batch, ...positions, channels]; None for a
            size that is not fixed.
        teacher_shape: Shape of the teacher's feature.
        name: Name of the projector.

    Returns:
        A `keras.Sequential`, built for `student_shape`; None where none is needed.

    Raises:
        ValueError: If no projector leads from the one shape to the other.

    Reference: FitNets' regressor, arXiv:1412.6550, section 2.2.
    """
    student_shape, teacher_shape = tuple(student_shape), tuple(teacher_shape)
    steps = _resize_steps(student_shape, teacher_shape)
    student_channels, teacher_channels = student_shape[-1], teacher_shape[-1]
    if student_channels is None or teacher_channels is None:
        raise _no_way(student_shape, teacher_shape, "the number of channels is not fixed")
    if student_channels != teacher_channels:
        convolution = _CONVOLUTION.get(len(teacher_shape))
        steps.append(
            convolution(teacher_channels, 1, name="project")
            if convolution is not None
            else layers.Dense(teacher_channels, name="project")
        )
    if not steps:
        return None
    projector = keras.Sequential(steps, name=name)
    projector.build(student_shape)
    return projector


def check_same_shape(student_shape, teacher_shape, hint):
    """Refuses features that would only meet by broadcasting.

    Args:
        student_shape: Shape of the student's feature, None for a size that is not fixed.
        teacher_shape: Shape of the teacher's feature.
        hint: What to do next, for the error.

    Raises:
        ValueError: If the shapes differ.
    """
    same = len(student_shape) == len(teacher_shape) and all(
        s is None or t is None or s == t
        for s, t in zip(student_shape[1:], teacher_shape[1:], strict=True)
    )
    if not same:
        raise ValueError(
            "Expected features of equal shapes. "
            f"Received: student {tuple(student_shape)}, teacher {tuple(teacher_shape)}. Hint: "
            f"{hint}"
        )


def _resize_steps(student, teacher):
    rank = len(student)
    if len(teacher) == 2 and rank in _GLOBAL_POOLING:
        return [_GLOBAL_POOLING[rank](name="pool")]
    if len(teacher) != rank or rank < 2:
        raise _no_way(student, teacher, "the ranks differ")
    sizes, wanted = student[1:-1], teacher[1:-1]
    if all(s == t for s, t in zip(sizes, wanted, strict=True)):
        return []
    if any(s is None or t is None for s, t in zip(sizes, wanted, strict=True)):
        raise _no_way(student, teacher, "a size is fixed in one of them alone")
    if rank not in _POOLING:
        raise _no_way(student, teacher, "only sequences, maps and volumes can be resized")
    if all(s % t == 0 for s, t in zip(sizes, wanted, strict=True)):
        windows = tuple(s // t for s, t in zip(sizes, wanted, strict=True))
        return [_POOLING[rank](windows if rank > 3 else windows[0], name="pool")]
    if rank == 4:
        return [layers.Resizing(*wanted, name="resize")]
    raise _no_way(student, teacher, "the sizes are no multiples of each other")


def _no_way(student, teacher, why):
    return ValueError(
        f"Expected features that a projector can match. Received: student {student}, teacher "
        f"{teacher}: {why}. Hint: name other layers, or give projector= a layer of your own."
    )
