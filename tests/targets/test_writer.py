"""Writing: what is asked and stored, and that an interrupted writing ends as an undisturbed one."""

import itertools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import data, teachers
from keras_kd.targets import DamagedError, Manifest, Stored, shards, write, writer
from keras_kd.targets.progress import Progress
from tests.targets import small_task

HALF_ULP = 2.0**-11


@pytest.fixture(scope="module")
def teacher():
    return small_task.teacher()


@pytest.fixture(scope="module")
def undisturbed(teacher, tmp_path_factory):
    """The content of a folder that was written in one go, by file name."""
    folder = tmp_path_factory.mktemp("undisturbed") / "targets"
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    return small_task.content(folder)


def test_files_and_manifest(undisturbed, teacher, tmp_path):
    assert sorted(undisturbed) == [*(f"answers-00000{n}.npy" for n in range(8)), *_OTHERS]
    (tmp_path / "manifest.json").write_bytes(undisturbed["manifest.json"])
    manifest = Manifest.read(tmp_path)
    assert manifest.complete
    assert (manifest.records, manifest.examples, manifest.teacher) == (300, 300, "teacher")
    assert manifest.fingerprint == teachers.model.fingerprint(teacher)
    assert manifest.inputs == (("", (small_task.FEATURES,), "float32"),)
    # Key, three classes of a byte, three probabilities and the rest in float16.
    assert manifest.record().itemsize == 8 + 3 + 6 + 2


_OTHERS = ["index.npy", "manifest.json"]


def test_outputs_are_the_teachers(teacher, tmp_path):
    x = small_task.inputs()
    write(teacher, x, tmp_path / "a", dtype="float32", features=["hidden"], **small_task.OPTIONS)
    stored = Stored(tmp_path / "a")
    hidden = keras.Model(teacher.input, teacher.get_layer("hidden").output)
    records = stored.read(stored.keys)
    # The same operations on the same batches of 20, in another graph: float32 rounding.
    np.testing.assert_allclose(records["outputs"], teacher(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(records["feature:hidden"], hidden(x), rtol=1e-5, atol=1e-6)


def test_dataset_of_any_batches_gives_the_same_files(undisturbed, teacher, tmp_path):
    examples = tf.data.Dataset.from_tensor_slices((small_task.inputs(), np.zeros(300)))
    for name, dataset in {"single": examples, "batches": examples.batch(7)}.items():
        write(teacher, dataset, tmp_path / name, top_k=3, **small_task.OPTIONS)
        assert small_task.content(tmp_path / name) == undisturbed


class Killed(BaseException):
    """As kill -9 would be: nothing is cleaned up."""


@pytest.mark.parametrize("function", ["open", "write", "fsync", "replace"])
def test_killed_at_any_file_operation_it_goes_on(
    undisturbed, teacher, tmp_path, monkeypatch, function
):
    """Killed at the first of them, then at the second, and so on until one run comes through."""
    folder, runs = tmp_path / "targets", itertools.count(1)
    # Each shard is a write, with two flushes (the file and its folder) and a renaming.
    for run in runs:
        with monkeypatch.context() as patched:
            _kill_at(patched, function, run)
            try:
                write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
                break
            except Killed:
                continue
    assert run > 4
    assert small_task.content(folder) == undisturbed


def _kill_at(patched, function, at):
    count = itertools.count(1)
    real = {"open": shards.pathlib.Path.open, "fsync": os.fsync, "replace": os.replace}

    def call(*args, **kwargs):
        if next(count) == at:
            raise Killed
        return real[function](*args, **kwargs)

    def half(path, content):
        if next(count) == at:
            # What a file system may have of a file whose writer was killed.
            path.with_name(f".{path.name}.1.part").write_bytes(bytes(content[0])[:20])
            raise Killed
        return whole(path, content)

    if function == "write":
        whole = shards.write_whole
        patched.setattr(shards, "write_whole", half)
    elif function == "open":
        patched.setattr(shards.pathlib.Path, "open", call)
    else:
        patched.setattr(os, function, call)


def test_finished_shards_are_not_asked_again(tmp_path):
    folder, asked = tmp_path / "targets", []

    def teacher(x):
        asked.append(len(x))
        return x[:, :3] * 2

    task = {"fingerprint": "1", **small_task.OPTIONS}
    write(teacher, small_task.inputs(), folder, **task)
    # Two to learn the form, then all in batches.
    assert asked == [2, *[20] * 15]
    before = small_task.content(folder)
    for name in ("answers-000002.npy", "answers-000007.npy"):
        (folder / name).unlink()
    with pytest.raises(DamagedError, match=r"none of name 'answers-000002\.npy'"):
        Stored(folder)
    asked.clear()
    write(teacher, small_task.inputs(), folder, **task)
    # The 2 batches of shard 2, and the last 20 examples.
    assert asked == [2, 20, 20, 20]
    assert small_task.content(folder) == before


def test_damaged_shard_is_written_anew(undisturbed, teacher, tmp_path):
    folder = tmp_path / "targets"
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    path = folder / "answers-000003.npy"
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    with pytest.raises(DamagedError, match=r"answers-000003\.npy.*remove that file"):
        Stored(folder)
    # As the message says.
    path.unlink()
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    assert small_task.content(folder) == undisturbed


def test_complete_folder_is_left_alone(undisturbed, teacher, tmp_path):
    folder = tmp_path / "targets"
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


@pytest.mark.parametrize("complete", [True, False])
def test_other_data_is_refused(teacher, tmp_path, complete):
    folder, x = tmp_path / "targets", small_task.inputs()
    write(teacher, x, folder, top_k=3, **small_task.OPTIONS)
    if not complete:
        Manifest.read(folder).settled().write(folder)
    other = x.copy()
    other[3] += 1
    with pytest.raises(ValueError, match="Expected the dataset that the answers were begun with"):
        write(teacher, other, folder, top_k=3, **small_task.OPTIONS)
    with pytest.raises(ValueError, match=r"another folder for another dataset|Received more"):
        write(teacher, x[:100], folder, top_k=3, **small_task.OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 4}, "top_k was 3 and is 4 now"),
        ({"dtype": "float32"}, "dtype was 'float16' and is 'float32' now"),
        ({"temperature": 2.0}, "temperature was None and is 2.0 now"),
        ({"batch_size": 10}, "batch_size was 20 and is 10 now"),
        ({"features": ["hidden"]}, "features was"),
        ({"preprocessing": tf.identity}, "preprocessing was '' and is"),
    ],
)
def test_other_task_is_refused(teacher, tmp_path, change, message):
    folder = tmp_path / "targets"
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    with pytest.raises(ValueError, match=message):
        write(teacher, small_task.inputs(), folder, **{"top_k": 3, **small_task.OPTIONS, **change})


def test_other_teacher_is_refused(teacher, tmp_path):
    folder = tmp_path / "targets"
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    with pytest.raises(ValueError, match=r"fingerprint was '\w+' and is '\w+' now"):
        write(
            small_task.teacher(seed=4), small_task.inputs(), folder, top_k=3, **small_task.OPTIONS
        )


def test_folder_of_something_else_is_refused(teacher, tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"which holds photo\.jpg"):
        write(teacher, small_task.inputs(), tmp_path, **small_task.OPTIONS)


def test_random_inputs_are_refused(teacher, tmp_path):
    examples = tf.data.Dataset.from_tensor_slices(small_task.inputs())
    generator = tf.random.Generator.from_seed(0)
    noisy = examples.map(lambda x: x + generator.normal((small_task.FEATURES,)))
    for dataset in (examples.shuffle(300), noisy):
        with pytest.raises(ValueError, match="gives the same inputs each time it is read"):
            write(teacher, dataset, tmp_path / "targets", **small_task.OPTIONS)
    assert not (tmp_path / "targets").exists()


def test_preprocessing_is_the_teachers_alone(teacher, tmp_path):
    x = small_task.inputs()

    def double(x):
        return 2 * x

    manifest = write(
        teacher, x, tmp_path / "a", dtype="float32", preprocessing=double, **small_task.OPTIONS
    )
    assert manifest.preprocessing.endswith("double")
    stored = Stored(tmp_path / "a")
    np.testing.assert_allclose(
        stored.read(stored.keys)["outputs"], teacher(2 * x), rtol=1e-5, atol=1e-6
    )


def test_explicit_keys_are_integers_or_strings(teacher, tmp_path):
    numbers = np.arange(300)[::-1] * 7
    names = np.array([f"clip {n}" for n in numbers])
    for name, keys in {"numbers": numbers, "names": names}.items():
        x = {"inputs": small_task.inputs(), "id": keys}
        manifest = write(teacher, x, tmp_path / name, key="id", **small_task.OPTIONS)
        assert manifest.key == "id"
        assert manifest.record().names[:2] == ("key", "input_hash")
    assert Stored(tmp_path / "numbers").keys.tolist() == numbers.tolist()


def test_numbered_examples_are_joined_by_number(teacher, tmp_path):
    x = data.with_index(small_task.inputs())
    assert write(teacher, x, tmp_path / "a", **small_task.OPTIONS).key == data.EXAMPLE_INDEX


def test_keys_that_stand_for_two_examples_are_refused(teacher, tmp_path):
    x = {"inputs": small_task.inputs(), "id": np.arange(300) % 299}
    with pytest.raises(ValueError, match="the same for examples 0 and 299"):
        write(teacher, x, tmp_path / "a", key="id", **small_task.OPTIONS)


def test_equal_inputs_have_equal_answers(teacher, tmp_path):
    x = np.concatenate([small_task.inputs(20), small_task.inputs(20)])
    write(teacher, x, tmp_path / "a", dtype="float32", **small_task.OPTIONS)
    stored = Stored(tmp_path / "a")
    assert len(np.unique(stored.keys)) == 20
    np.testing.assert_array_equal(stored.keys[:20], stored.keys[20:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "name"}, "Expected an entry 'name' in the inputs"),
        ({"views": 0}, "Expected views to be a positive integer"),
        ({"views": 2}, "Expected augment= with views=2"),
        ({"batch_size": 2.0}, "Expected batch_size to be a positive integer"),
        ({"outputs": "scores"}, "Expected outputs to be 'auto'"),
        ({"outputs": "probabilities"}, "ends in, linear. Received: 'probabilities'"),
        ({"features": ["hiden"]}, "Hint: no layer 'hiden' in 'teacher'"),
    ],
)
def test_bad_options(teacher, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write(teacher, small_task.inputs(), tmp_path / "a", **{**small_task.OPTIONS, **change})
    assert not (tmp_path / "a").exists()


def test_bad_teachers(tmp_path):
    x = small_task.inputs(40)
    with pytest.raises(TypeError, match="Expected a Keras model, a Teacher or a callable"):
        write("teacher", x, tmp_path / "a", **small_task.OPTIONS)
    with pytest.raises(ValueError, match="has no weights yet"):
        write(keras.Sequential([keras.layers.Dense(3)]), x, tmp_path / "a", **small_task.OPTIONS)
    with pytest.raises(ValueError, match="Expected fingerprint= for"):
        write(np.tanh, x, tmp_path / "a", **small_task.OPTIONS)
    with pytest.raises(ValueError, match="Expected a Keras model to read the features"):
        write(np.tanh, x, tmp_path / "a", features=["a"], fingerprint="1", **small_task.OPTIONS)
    inputs = keras.Input((small_task.FEATURES,))
    two = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(ValueError, match="Expected a teacher with one output"):
        write(two, x, tmp_path / "a", **small_task.OPTIONS)
    with pytest.raises(ValueError, match="at least one example"):
        write(np.tanh, x[:0], tmp_path / "a", fingerprint="1", **small_task.OPTIONS)


def test_any_callable_is_asked_with_arrays(tmp_path):
    """As a random forest's predict_proba."""

    def forest(x):
        assert isinstance(x, np.ndarray)
        votes = np.abs(x[:, :3].astype("float64")) + 0.1
        return votes / votes.sum(-1, keepdims=True)

    x = small_task.inputs()
    task = {"fingerprint": "forest 1", **small_task.OPTIONS}
    with pytest.raises(ValueError, match="outputs= to be declared"):
        write(forest, x, tmp_path / "a", top_k=2, **task)
    write(forest, x, tmp_path / "a", top_k=2, outputs="probabilities", **task)
    stored = Stored(tmp_path / "a")
    found = stored.read(stored.keys)
    expected = -np.sort(-forest(x), axis=-1)
    # log p is rounded to float16; p in (0, 1] moves by p |log p| 2^-11, at most 2^-11 / e.
    np.testing.assert_allclose(
        np.exp(found["log_probabilities"].astype("float64")), expected[:, :2], atol=HALF_ULP
    )
    np.testing.assert_allclose(
        np.exp(found["log_rest"].astype("float64")), expected[:, 2], atol=HALF_ULP
    )


def test_teachers_of_the_protocol_are_asked(teacher, tmp_path):
    wrapped = teachers.ModelTeacher(teacher)
    x = small_task.inputs()
    write(wrapped, x, tmp_path / "wrapped", top_k=3, features=["hidden"], **small_task.OPTIONS)
    write(teacher, x, tmp_path / "model", top_k=3, features=["hidden"], **small_task.OPTIONS)
    assert small_task.content(tmp_path / "wrapped") == small_task.content(tmp_path / "model")


@pytest.mark.parametrize("value", [np.nan, 7e4])
def test_answer_that_is_not_finite_is_named(tmp_path, value):
    x = small_task.inputs()
    x[157, 0] = 1e9

    def teacher(x):
        return np.where(x[:, :1] > 1e8, value, 1.0) * np.ones((len(x), 3), "float32")

    task = {"fingerprint": "1", **small_task.OPTIONS}
    message = r"finite numbers in float16.*'outputs' of example 157, key"
    with pytest.raises(ValueError, match=message):
        write(teacher, x, tmp_path / "a", **task)
    if value == 7e4:  # More than float16 holds, and no trouble for float32.
        write(teacher, x, tmp_path / "b", dtype="float32", **task)


def test_full_disk_is_told_and_gone_on_from(undisturbed, teacher, tmp_path, monkeypatch):
    folder, whole = tmp_path / "targets", os.fsync
    room = iter([True] * 7)

    def full(descriptor):
        if not next(room, False):
            raise OSError(28, "No space left on device")
        return whole(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="make room, and the same call goes on"):
        write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    monkeypatch.undo()
    assert 0 < len(list(folder.glob("answers-*"))) < 8
    write(teacher, small_task.inputs(), folder, top_k=3, **small_task.OPTIONS)
    assert small_task.content(folder) == undisturbed


def test_progress_tells_rate_and_time_left(capsys):
    now = itertools.chain([0.0, 1.0, 1.0], itertools.repeat(2.0))
    with Progress(1000, "examples", shown=True, clock=lambda: next(now)) as bar:
        bar.add(400, found=True)
        bar.add(100)
        # 100 asked in 2 seconds, 500 to go: what was there already says nothing of the speed.
        assert bar.text() == "500/1,000 examples, 50/s, 0:10 left"
    assert capsys.readouterr().err.endswith("\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "1:00 left"), (3725, "1:02:05 left"), (0, "0:00 left")]
)
def test_time_left(seconds, text):
    now = itertools.chain([0.0], itertools.repeat(1.0))
    bar = Progress(1 + seconds, "examples", clock=lambda: next(now))
    bar.add(1)
    assert bar.text().endswith(text)


def test_progress_is_silent_without_a_terminal(teacher, tmp_path, capsys):
    write(teacher, small_task.inputs(), tmp_path / "a", batch_size=20, shard_records=40)
    assert capsys.readouterr().err == ""


def test_defaults_are_those_of_write():
    with pytest.raises(TypeError, match="Received: \\['topk'\\]"):
        writer.with_defaults({"topk": 3})
    assert writer.with_defaults({"top_k": 3})["shard_records"] == 8192
