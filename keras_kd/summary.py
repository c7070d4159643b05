"""What a distiller teaches to whom, as text."""

from keras_kd import schedules
from keras_kd.features import as_paths


def describe(distiller):
    """Returns the summary of a distiller: both models, then each loss on a line.

    Args:
        distiller: A `keras_kd.Distiller`.

    Returns:
        A text of several lines.
    """
    teacher, student = distiller._teacher, distiller.student
    lines = [f"Distiller '{distiller.name}'"]
    lines.append(f"  teacher  {_teacher(teacher)}")
    lines.append(f"  student  {_model(student)}{_ratio(teacher and teacher.model, student)}")
    lines.append(
        f"  total = {_weight(distiller.student_loss_weight)} * task"
        f" + {_rest(distiller.student_loss_weight)} * distillation"
    )
    rows = [("loss", "weight", "teacher", "student", "parts")]
    rows += [_row(term, distiller) for term in distiller._terms]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _teacher(teacher):
    if teacher is None:
        return "none (give it back by distiller.teacher = model)"
    return teacher.describe()


def _model(model):
    if not model.built:
        return f"'{model.name}', not built yet"
    return f"'{model.name}', {model.count_params():,} parameters"


def _ratio(teacher, student):
    if teacher is None or not (teacher.built and student.built) or not student.count_params():
        return ""
    return f", {teacher.count_params() / student.count_params():.1f} times smaller"


def _row(term, distiller):
    loss = term.loss
    teacher = distiller._teacher
    teacher_features = None if teacher is None else teacher.symbolic()[1]
    return (
        term.name,
        _weight(term.weight),
        _side(loss.teacher_layer_name, teacher_features),
        _side(loss.student_layer_name, distiller._student_reader.features),
        _parts(loss),
    )


def _side(path, features):
    if path is None:
        return "outputs"
    shapes = {p: f" {tuple(features[p].shape)}" if features else "" for p in as_paths(path)}
    return ", ".join(f"{p}{shape}" for p, shape in shapes.items())


def _parts(loss):
    if not loss.is_connected():
        return "not known yet"
    return "; ".join(map(_part, loss.parts)) or "-"


def _part(part):
    steps = getattr(part, "layers", [part])
    names = " > ".join(type(step).__name__ for step in steps)
    return f"{names}, {part.count_params():,} parameters"


def _weight(weight):
    return type(weight).__name__ if schedules.is_schedule(weight) else f"{weight:g}"


def _rest(weight):
    return f"(1 - {_weight(weight)})" if schedules.is_schedule(weight) else f"{1 - weight:g}"
