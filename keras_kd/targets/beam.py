"""The writer as an Apache Beam pipeline, where one machine is not enough.

It writes the shards and the manifest that `targets.write` writes, byte for byte. Importing this
file needs the extra `beam`.
"""

import pathlib

import apache_beam as beam

from keras_kd.targets import task as tasks
from keras_kd.targets import writer
from keras_kd.targets.finish import finish
from keras_kd.targets.progress import Progress


class WriteTargets(beam.PTransform):
    """Asks a teacher about every example, a shard a bundle, on as many workers as there are.

    A shard is written beside and renamed, so a worker that is killed leaves none that is wrong; its
    bundle is tried again by the runner, or by the same pipeline run once more, which passes over
    the shards that are whole.

    Args:
        make_teacher: Called on each worker; returns the teacher, as `write` takes it.
        make_dataset: Called on the workers with numbers `(start, stop)`; returns these examples as
            arrays or a `tf.data.Dataset`, in the same order each time. Like `make_teacher` it has
            to be picklable: a function of a module.
        path: The folder to write, which all workers see under this path.
        examples: How many there are.
        **options: As of `write`, with the same defaults.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If `examples` is not positive.

    Example:
        >>> with beam.Pipeline(options=options) as pipeline:
        ...     pipeline | WriteTargets(load_teacher, read, "/nfs/targets", 1_281_167, top_k=20)
    """

    def __init__(self, make_teacher, make_dataset, path, examples, **options):
        super().__init__()
        if examples < 1:
            raise ValueError(f"Expected examples of at least 1. Received: {examples!r}")
        self._worker = _Worker(make_teacher, make_dataset, str(path), examples, options)

    def expand(self, root):
        """Returns a collection of one element: how many records there are."""
        worker = self._worker
        return (
            root
            | "One" >> beam.Create([None])
            | "Begin" >> beam.ParDo(_Begin(worker))
            # A bundle of its own for each shard, which is what is tried again.
            | "Spread" >> beam.Reshuffle()
            | "Write" >> beam.ParDo(_WriteShard(worker))
            | "Wait for all" >> beam.combiners.Count.Globally()
            | "Finish" >> beam.ParDo(_Finish(worker))
        )


class _Worker:
    """What a worker needs to make its task; picklable, the task itself is not."""

    def __init__(self, make_teacher, make_dataset, path, examples, options):
        self.make_teacher = make_teacher
        self.make_dataset = make_dataset
        self.path = pathlib.Path(path)
        self.examples = examples
        self.options = writer.with_defaults(options)

    def task(self):
        """Returns the task of the whole pipeline, read off its first shard."""
        records = self.options["shard_records"]
        first = writer.as_dataset(self.make_dataset(0, min(self.examples, records)))
        return tasks.Task(self.make_teacher(), first, **self.options)

    def shards(self, manifest):
        """Returns `(start, stop)` of the examples of each shard."""
        each = manifest.shard_records // manifest.views
        starts = range(0, self.examples, each)
        return [(start, min(start + each, self.examples)) for start in starts]


class _OnTask(beam.DoFn):
    """Makes the task once for all elements."""

    def __init__(self, worker):
        self._worker = worker
        self._task = None

    def setup(self):
        self._task = self._worker.task()


class _Begin(_OnTask):
    """Makes the folder; gives the number of each shard, and its examples."""

    def process(self, element):
        del element
        begun = tasks.begin(self._worker.path, self._task.manifest)
        yield from enumerate(self._worker.shards(begun))


class _WriteShard(_OnTask):
    """Writes one shard."""

    def __init__(self, worker):
        super().__init__(worker)
        self._answers = beam.metrics.Metrics.counter("keras_kd.targets", "answers")

    def process(self, shard):
        number, (start, stop) = shard
        dataset = writer.as_dataset(self._worker.make_dataset(start, stop))
        batches = self._task.batches_of(dataset)
        self._task.write_shard(
            self._worker.path, number, batches, Progress(None, "answers", shown=False)
        )
        self._answers.inc((stop - start) * self._task.manifest.views)
        yield number


class _Finish(_OnTask):
    """Writes index and manifest."""

    def process(self, count):
        yield finish(self._worker.path, self._task.manifest, count).records
