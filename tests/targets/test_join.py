"""Joining answers to examples: by key in any order, at mismatches, with augmented views."""

import numpy as np
import pytest
import tensorflow as tf

from keras_kd import data
from keras_kd.data import INPUTS, STORED
from keras_kd.targets import Manifest, Stored, attach, examples, write
from tests.targets import small_task

# The same operations on other batches, in another graph: float32 rounding of terms of magnitude 1.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def teacher():
    return small_task.teacher()


@pytest.fixture(scope="module")
def path(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("join") / "targets"
    write(teacher, small_task.inputs(), folder, dtype="float32", **small_task.OPTIONS)
    return folder


def shift(x, seed):
    """An augmentation of one example."""
    return x + tf.random.stateless_normal((small_task.FEATURES,), seed)


def shift_twice(x, seed):
    return shift(shift(x, seed), seed)


@pytest.fixture(scope="module")
def views(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("join") / "views"
    task = {"dtype": "float32", "views": 3, "augment": shift, **small_task.OPTIONS}
    write(teacher, small_task.inputs(), folder, **task)
    return folder


def answers_in(x):
    """Returns the answers of the one teacher whose answers were attached."""
    (found,) = x[STORED].values()
    return found


def dataset():
    return tf.data.Dataset.from_tensor_slices((small_task.inputs(), np.arange(300)))


def test_hash_is_farmhash_fingerprint():
    """The values of FARM_FINGERPRINT in BigQuery's reference, functions on hashes."""
    texts = tf.constant(["1footrue", "2applefalse", "3true"])
    expected = [-1541654101129638711, 2794438866806483259, -4880158226897771312]
    np.testing.assert_array_equal(examples.hashes(texts), expected)
    as_bytes = tf.constant(np.frombuffer(b"1footrue", np.uint8)[None])
    np.testing.assert_array_equal(examples.hashes(as_bytes), expected[:1])


def test_hash_is_of_every_input_and_of_its_place():
    a, b = (np.full((2, 3), value, "float32") for value in (1, 2))
    hashes = [examples.hashes(x).numpy()[0] for x in ({"a": a, "b": b}, {"a": b, "b": a}, a, b)]
    assert len(set(hashes)) == 4


def shuffled(batch):
    return dataset().shuffle(300, seed=1).batch(batch)


@pytest.mark.parametrize(
    "arranged",
    [
        lambda: attach_to(shuffled(32)),
        lambda: attach_to(dataset().shuffle(300, seed=1)).batch(32),
        lambda: attach_to(dataset().batch(32, drop_remainder=True)),
        lambda: attach_to(dataset().shard(3, 1).repeat(2).batch(32)),
        lambda: attach_to(dataset().batch(32).prefetch(2)).shuffle(3, seed=1),
    ],
    ids=["batches", "single", "dropped remainder", "sharded and repeated", "shuffled batches"],
)
def test_every_example_has_its_answer(teacher, path, arranged):
    attach_to.path = path
    seen = []
    for x, y in arranged():
        np.testing.assert_array_equal(x[INPUTS], small_task.inputs()[y])
        np.testing.assert_allclose(answers_in(x)["outputs"], teacher(x[INPUTS]), **ROUNDING)
        seen += y.numpy().tolist()
    assert len(seen) in (300, 288, 200)


def attach_to(batches):
    """Attaches the answers of the module's `path`; what `map` is told of shapes is kept."""
    joined = attach(batches, attach_to.path)
    assert int(joined.cardinality()) == int(batches.cardinality())
    x, _ = joined.element_spec
    assert answers_in(x)["outputs"].shape[-1] == small_task.CLASSES
    return joined


def test_arrays_get_their_answers(teacher, path):
    x = small_task.inputs()[::-1]
    joined = attach(x, path)
    assert joined[INPUTS] is x
    np.testing.assert_allclose(answers_in(joined)["outputs"], teacher(x), **ROUNDING)


def test_answers_of_several_teachers_stand_beside_each_other(path, tmp_path):
    other = small_task.teacher(seed=8)
    write(other, small_task.inputs(), tmp_path / "a", dtype="float32", **small_task.OPTIONS)
    x = small_task.inputs()
    both = attach(attach(x, path), tmp_path / "a")
    first, second = both[STORED]
    assert first != second
    assert both[INPUTS] is x
    np.testing.assert_allclose(both[STORED][second]["outputs"], other(x), **ROUNDING)
    batches = tf.data.Dataset.from_tensor_slices(x).batch(50)
    assert set(next(iter(attach(attach(batches, path), tmp_path / "a")))[STORED]) == {first, second}


def test_numbers_of_examples_stay(teacher, tmp_path):
    numbered = data.with_index(small_task.inputs())
    write(teacher, numbered, tmp_path / "a", **small_task.OPTIONS)
    joined = attach(numbered, tmp_path / "a")
    np.testing.assert_array_equal(joined[data.EXAMPLE_INDEX], np.arange(300))
    batches = tf.data.Dataset.from_tensor_slices(numbered).shuffle(300).batch(50)
    for x in attach(batches, tmp_path / "a"):
        inputs, index = data.split_index(x)
        assert set(inputs) == {INPUTS, STORED}
        np.testing.assert_array_equal(inputs[INPUTS], small_task.inputs()[index])


def test_named_keys_are_taken_out(teacher, tmp_path):
    names = np.array([f"clip {n}" for n in range(300)])
    x = {INPUTS: small_task.inputs(), "name": names}
    write(teacher, x, tmp_path / "a", key="name", dtype="float32", **small_task.OPTIONS)
    for joined in (
        attach(x, tmp_path / "a"),
        next(iter(attach(tf.data.Dataset.from_tensor_slices(x).batch(300), tmp_path / "a"))),
    ):
        assert set(joined) == {INPUTS, STORED}
        np.testing.assert_allclose(
            answers_in(joined)["outputs"], teacher(small_task.inputs()), **ROUNDING
        )


def test_mapped_files_give_what_memory_gives(path):
    kept, mapped = Stored(path), Stored(path, in_memory_bytes=0)
    keys = np.random.default_rng(0).permutation(kept.keys)
    np.testing.assert_array_equal(kept.read(keys), mapped.read(keys))
    assert isinstance(mapped._parts[0], np.memmap)
    assert len(mapped) == len(kept) == 300


def test_missing_example_is_named(path):
    x = small_task.inputs()
    x[7] += 1
    message = r"none for example 7 of 32 .*, inputs of hash -?\d+; 1 have none"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(iter(attach(tf.data.Dataset.from_tensor_slices(x).batch(32), path)))
    with pytest.raises(ValueError, match="none for example 7 of 300"):
        attach(x, path)


def test_changed_input_under_a_known_key_is_named(teacher, tmp_path):
    x = data.with_index(small_task.inputs())
    write(teacher, x, tmp_path / "a", **small_task.OPTIONS)
    x["inputs"][[9, 12]] += 1
    with pytest.raises(ValueError, match=r"another for example 9 of 300 .*, key 9; 2 differ"):
        attach(x, tmp_path / "a")
    x = {INPUTS: small_task.inputs(), data.EXAMPLE_INDEX: np.arange(300) + 1}
    with pytest.raises(ValueError, match="'example_index' 300; 1 have none"):
        attach({name: value[-10:] for name, value in x.items()}, tmp_path / "a")


def test_inputs_of_another_form_are_refused(path):
    x = small_task.inputs()
    with pytest.raises(ValueError, match=r"float32\[6\]\. Received: float64\[6\]"):
        attach(x.astype("float64"), path)
    with pytest.raises(ValueError, match=r"float32\[6\]\. Received: float32\[5\]"):
        attach(tf.data.Dataset.from_tensor_slices(x[:, :5]), path)


def test_answers_of_another_teacher_are_refused(teacher, path):
    attach(small_task.inputs(), path, teacher=teacher)
    with pytest.raises(ValueError, match="Expected the answers of teacher 'teacher'"):
        attach(small_task.inputs(), path, teacher=small_task.teacher(seed=8))


def test_what_is_not_there_or_not_complete_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        attach(small_task.inputs(), tmp_path)
    Manifest.read(path).settled().write(tmp_path)
    with pytest.raises(ValueError, match="whose writing was interrupted"):
        attach(small_task.inputs(), tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="Expected a manifest of stored answers"):
        attach(small_task.inputs(), tmp_path)


def test_shard_of_another_folder_is_refused(path, views, tmp_path):
    for name, content in small_task.content(path).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "answers-000001.npy").write_bytes((path / "answers-000002.npy").read_bytes())
    with pytest.raises(ValueError, match=r"names, of SHA-256.*answers-000001\.npy"):
        attach(small_task.inputs(), tmp_path)


@pytest.mark.parametrize("batched", [True, False])
def test_views_are_made_again_as_the_teacher_saw_them(teacher, views, batched):
    plain = dataset().shuffle(300, seed=2)
    joined = attach(plain.batch(50) if batched else plain, views, augment=shift)
    joined = joined if batched else joined.batch(50)
    assert int(joined.cardinality()) == 18
    seen = {}
    for x, y in joined:
        np.testing.assert_allclose(answers_in(x)["outputs"], teacher(x[INPUTS]), **ROUNDING)
        for number, row in zip(y.numpy(), x[INPUTS].numpy(), strict=True):
            seen.setdefault(int(number), set()).add(row.tobytes())
    # Each example in three views, all different and none of them the input itself.
    assert {len(found) for found in seen.values()} == {3}
    assert len(seen) == 300
    assert small_task.inputs()[0].tobytes() not in seen[0]


def test_random_augmentation_is_refused(path, views):
    with pytest.raises(ValueError, match=r"Expected no augment=: .* Hint: targets\.write"):
        attach(dataset(), path, augment=shift)
    with pytest.raises(ValueError, match=r"Expected augment=.*shift.* Received: None"):
        attach(dataset(), views)
    with pytest.raises(ValueError, match=r"Received: .*shift_twice"):
        attach(dataset(), views, augment=shift_twice)
    with pytest.raises(ValueError, match=r"Expected a tf\.data\.Dataset with augment="):
        attach(small_task.inputs(), views, augment=shift)
    noisy = dataset().map(lambda x, y: (x + tf.random.normal((small_task.FEATURES,)), y))
    with pytest.raises(tf.errors.InvalidArgumentError, match="before any augmentation"):
        next(iter(attach(noisy.batch(10), path)))


def test_another_augmentation_of_the_same_name_is_found(views):
    def other(x, seed):
        return shift(x, seed) + 1e-3

    other.__module__, other.__qualname__ = shift.__module__, shift.__qualname__
    with pytest.raises(tf.errors.InvalidArgumentError, match="augment= must be the function"):
        next(iter(attach(dataset().batch(10), views, augment=other)))


def test_replayable_data_does_not_augment_behind_the_teachers_back(path):
    joined = attach(small_task.inputs(), path)
    with pytest.raises(ValueError, match="Expected no augment= with stored answers"):
        data.replayable(joined, batch_size=10, seed=0, augment=lambda x, seed: x)


def test_replayable_data_keeps_answers_with_their_examples(teacher, path):
    joined = attach(small_task.inputs(), path)
    for (x,) in data.replayable(joined, batch_size=64, seed=0):
        np.testing.assert_allclose(answers_in(x)["outputs"], teacher(x[INPUTS]), **ROUNDING)
