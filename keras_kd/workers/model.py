"""A Keras model whose `fit` and `evaluate` work on several machines.

Keras 3.15's own do not under `tf.distribute.MultiWorkerMirroredStrategy`: it takes a batch that is
divided among workers for a tensor when it builds the model, and the mean of scalars over the
workers along an axis that scalars do not have.
"""

import functools
import inspect

import keras
import tensorflow as tf

from keras_kd import data
from keras_kd.workers import callbacks as workers_callbacks
from keras_kd.workers import data as workers_data
from keras_kd.workers.job import is_job, lost_workers_named, name_of


class WorkersModel(keras.Model):
    """Trains as `keras.Model` does; on the workers of a job too.

    Every worker runs the same script. All see the same logs, of each batch and of the epoch, so a
    callback decides the same everywhere. Without a cluster this is `keras.Model`.
    """

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        """Trains the model; as `keras.Model.fit`."""
        strategy = self.distribute_strategy
        if not is_job(strategy):
            return super().fit(*args, **kwargs)
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        _take_validation_split(given)
        _share_out_validation(given, strategy)
        _share_out(given, strategy, shuffle=given["shuffle"])
        given["callbacks"] = workers_callbacks.for_worker(given["callbacks"], strategy)
        with lost_workers_named(strategy):
            return super().fit(*bound.args, **bound.kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args, **kwargs):
        """Evaluates the model; as `keras.Model.evaluate`."""
        strategy = self.distribute_strategy
        if not is_job(strategy):
            return super().evaluate(*args, **kwargs)
        bound = inspect.signature(super().evaluate).bind(*args, **kwargs)
        bound.apply_defaults()
        _share_out(bound.arguments, strategy)
        with lost_workers_named(strategy):
            return super().evaluate(*bound.args, **bound.kwargs)

    def make_train_function(self, force=False):
        """Makes the function that runs train steps."""
        if not is_job(self.distribute_strategy):
            super().make_train_function(force)
        elif self.train_function is None or force:
            steps = _steps(self, self.train_step)
            normalizes = _takes_statistics(self)
            self.train_function = _examples_checked(self, steps) if normalizes else steps

    def make_test_function(self, force=False):
        """Makes the function that runs test steps."""
        if not is_job(self.distribute_strategy):
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = _steps(self, self.test_step)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras has no public hook between the first batch and the build: it is given this worker's
        # part of the batch, in place of the divided batch that it cannot take the form of.
        # tests/test_workers_parts.py fails when it moves.
        strategy = self.distribute_strategy
        if iterator is not None and is_job(strategy):
            batch = next((next(batches, None) for _, _, batches in iterator), None)
            iterator, data_batch = None, _of_first_replica(strategy, batch)
            if data_batch is None:
                return
        super()._maybe_symbolic_build(iterator, data_batch)
        if is_job(strategy):
            # Not before: the metrics of `compile` are known when they are built.
            _check_scope(self)


def _check_scope(model):
    """Refuses variables that the workers would not keep equal.

    Raises:
        ValueError: If something of the model was made outside of the strategy's scope.
    """
    optimizer = model.optimizer.variables if model.compiled and model.optimizer else []
    for variable in [*model.variables, *model.metrics_variables, *optimizer]:
        if not isinstance(variable.value, tf.distribute.DistributedValues):
            raise ValueError(
                "Expected models, optimizer and metrics made in strategy.scope(). Received "
                f"'{variable.path}' from outside: each worker would have a value of its own."
            )


def _take_validation_split(given):
    """Turns `fit`'s validation_split into validation_data, of which it is the other name."""
    share, given["validation_split"] = given["validation_split"], 0.0
    if share and given["validation_data"] is None:
        parts = ("x", "y", "sample_weight")
        left, off = workers_data.split_off(share, *(given[part] for part in parts))
        given.update(zip(parts, left, strict=True))
        given["validation_data"] = off


def _share_out(given, strategy, *, shuffle=False):
    """Puts this worker's share in the place of the data that `fit` or `evaluate` got."""
    x, given["y"], given["sample_weight"] = workers_data.as_dataset(
        given["x"],
        given["y"],
        given["sample_weight"],
        batch_size=given["batch_size"],
        shuffle=shuffle,
    )
    if x is not given["x"]:
        given["batch_size"] = None
        if "shuffle" in given:
            given["callbacks"] = data.with_epoch_told(given["callbacks"], x)
            given["shuffle"] = False
    # Keras writes the class weights into a dataset, which one that is shared out is no more.
    given["x"] = x if given.get("class_weight") else workers_data.for_worker(x, strategy)


def _share_out_validation(given, strategy):
    """The same for `fit`'s validation_data."""
    if given["validation_data"] is None:
        return
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given["validation_data"])
    parts = {"x": x, "y": y, "sample_weight": sample_weight}
    parts["batch_size"] = given["validation_batch_size"] or given["batch_size"]
    _share_out(parts, strategy)
    if parts["x"] is not x:
        given["validation_data"], given["validation_batch_size"] = parts["x"], None


def _of_first_replica(strategy, batch):
    """Returns what the first device of this worker has of a batch; None where there is none."""

    def local(value):
        # Keras hides a missing entry of a batch, None, in an empty Optional.
        if value is None or isinstance(value, tf.experimental.Optional):
            return None
        return strategy.experimental_local_results(value)[0]

    return keras.tree.map_structure(local, batch)


def _steps(model, step):
    """Returns a function from an iterator to the logs of its next `steps_per_execution` batches.

    Args:
        model: The model.
        step: Its `train_step` or `test_step`.
    """
    strategy = model.distribute_strategy

    @tf.autograph.experimental.do_not_convert
    def one_step(batch):
        return _mean_logs(strategy, strategy.run(step, args=(batch,)))

    run = one_step
    if not model.run_eagerly:
        run = tf.function(one_step, reduce_retracing=True, jit_compile=model.jit_compile)

    def steps(iterator):
        logs = None
        for _, batch in zip(range(model.steps_per_execution), iterator, strict=False):
            logs = run(_without_optionals(batch))
        if logs is None:
            raise StopIteration
        return logs

    return steps


def _takes_statistics(model):
    """Returns whether a layer of a model takes statistics of this worker's examples alone."""
    return any(
        _takes_statistics(layer)
        if isinstance(layer, keras.Model)
        else isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        for layer in model.layers
        if layer.trainable
    )


def _examples_checked(model, steps):
    """Returns `steps`, which then refuses a batch without an example for one of our devices."""
    strategy = model.distribute_strategy

    def check(batch):
        first = next(value for value in keras.tree.flatten(batch) if value is not None)
        if any(len(rows) == 0 for rows in strategy.experimental_local_results(first)):
            raise ValueError(
                "Expected a batch with an example for every worker: BatchNormalization would "
                f"have the statistics of none. Received one without any for {name_of(strategy)}. "
                "Hint: BatchNormalization(synchronized=True), or drop_remainder=True in the data."
            )
        return batch

    return lambda iterator: steps(map(check, iterator))


def _without_optionals(batch):
    return keras.tree.map_structure(
        lambda value: None if isinstance(value, tf.experimental.Optional) else value, batch
    )


def _mean_logs(strategy, logs):
    """Returns the mean of the replicas' logs, the same on all workers, in one message."""
    names, values = list(logs), list(logs.values())
    shapes = [strategy.experimental_local_results(value)[0].shape for value in values]

    def vector(values):
        return tf.concat([tf.reshape(tf.cast(v, "float32"), [-1]) for v in values], axis=0)

    means = strategy.reduce("MEAN", strategy.run(vector, args=(values,)), axis=None)
    parts = tf.split(means, [shape.num_elements() for shape in shapes])
    return {
        name: tf.reshape(part, shape)
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }
