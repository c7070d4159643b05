"""What a distiller refuses at construction: models that cannot be distilled."""

import warnings

import keras

from keras_kd.heads import symbolic_outputs


def check_student(student):
    """Refuses what cannot be trained.

    Raises:
        ValueError: If it is no Keras model, or nothing of it can be trained.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(f"Expected student to be a keras.Model. Received: {student!r}")
    if student.built and not student.trainable_weights:
        raise ValueError(
            f"Expected a student with trainable weights. Received: '{student.name}' with none. "
            "Hint: set student.trainable = True, or that of its layers."
        )


def check_models(teacher, student):
    """Refuses what is no pair of teacher and student.

    Args:
        teacher: A `keras_kd.teachers.Teacher`, or None where there is none (yet).
        student: A Keras model.

    Raises:
        ValueError: If the student cannot be trained, or both are or share the same.
    """
    check_student(student)
    if teacher is None:
        return
    if teacher.model is student:
        raise ValueError(
            "Expected two models. Received the same one as teacher and student: there is nothing "
            "to learn. Hint: keras.models.clone_model(teacher) makes a student of the same shape."
        )
    kept = {id(variable) for variable in teacher.variables}
    for layer in _layers(student):
        shared = [variable.path for variable in layer.variables if id(variable) in kept]
        if shared and layer.trainable:
            raise ValueError(
                "Expected a student that does not change its teacher. Received models that share "
                f"variables of layer '{layer.name}', '{shared[0]}' among them. Hint: set "
                "trainable = False on what is shared, or give the student layers of its own."
            )


def check_teacher(teacher, terms):
    """Refuses losses that a teacher's kind of answer cannot serve; warns of one that it serves ill.

    Args:
        teacher: A `keras_kd.teachers.Teacher`.
        terms: The distiller's terms.

    Raises:
        ValueError: Naming the loss.
    """
    for term in terms:
        _warn_of_other_temperature(teacher, term)
        if teacher.classes is not None and "labels" in term.loss.needs:
            raise ValueError(
                f"Expected a teacher of all the student's classes for '{term.name}', which needs "
                f"labels. Received: '{teacher.name}', which knows the classes "
                f"{list(teacher.classes)}."
            )
        if teacher.may_leave_out and term.loss.batch_level and not term.loss.leaves_out:
            raise ValueError(
                f"Expected a teacher that knows every example for '{term.name}', which is one "
                f"number for the whole batch. Received: '{teacher.name}', which knows only some."
            )


def _warn_of_other_temperature(teacher, term):
    exact = teacher.exact_temperature
    wanted = getattr(term.loss, "temperature", exact)
    if exact is None or term.loss.teacher_layer_name is not None or wanted == exact:
        return
    received = wanted if isinstance(wanted, int | float) else type(wanted).__name__
    warnings.warn(
        f"Expected '{term.name}' at temperature {exact}, at which the answers of teacher "
        f"'{teacher.name}' were stored. Received: {received}, where the mass of the classes that "
        "were left out is a guess. Hint: write the targets at the temperature of the loss.",
        stacklevel=2,
    )


def check_compiled(teacher, jit_compile):
    """Refuses to compile by XLA what runs beside the graph.

    Raises:
        ValueError: Naming the teacher.
    """
    if jit_compile and not teacher.in_graph:
        raise ValueError(
            f"Expected a step without XLA: teacher '{teacher.name}' runs beside the graph. "
            "Received jit_compile=True. Hint: compile(..., jit_compile=False)."
        )


def _layers(model):
    """Yields the layers of a model, and of the models inside it, that are no models themselves."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def check_inputs(teacher, student):
    """Refuses models that cannot be fed the same batch as it is.

    Args:
        teacher: A Keras model.
        student: A Keras model.

    Raises:
        ValueError: If both have fixed inputs and these differ in number or shape.
    """
    if symbolic_outputs(teacher) is None or symbolic_outputs(student) is None:
        return
    shapes = [[tuple(tensor.shape) for tensor in model.inputs] for model in (teacher, student)]
    if not same_shapes(*shapes):
        raise ValueError(
            f"Expected teacher and student with the same inputs. Received: teacher {shapes[0]}, "
            f"student {shapes[1]}. Hint: teacher_preprocessing= and student_preprocessing= turn "
            "one batch into what each of them takes."
        )


def check_comparable(teacher_outputs, student_outputs):
    """Refuses outputs of which it cannot be said whether they agree.

    Args:
        teacher_outputs: The teacher's symbolic outputs; None while they are not known.
        student_outputs: The student's.

    Raises:
        ValueError: If there are not as many of the one as of the other, or of other shapes.
    """
    if teacher_outputs is None or student_outputs is None:
        return
    shapes = [
        [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]
        for outputs in (teacher_outputs, student_outputs)
    ]
    if not same_shapes(*shapes):
        raise ValueError(
            "Expected teacher and student with the same outputs for teacher_agreement=True. "
            f"Received: teacher {shapes[0]}, student {shapes[1]}."
        )


def same_shapes(ours, theirs):
    """Returns whether two lists of shapes are alike, but for the batch and for sizes left open."""
    return len(ours) == len(theirs) and all(
        len(a) == len(b)
        and all(i is None or j is None or i == j for i, j in zip(a[1:], b[1:], strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )
