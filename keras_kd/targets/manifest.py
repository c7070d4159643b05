"""The manifest of stored answers: whose they are, of what, in which form, and how far they go."""

import dataclasses
import json
import pathlib

import numpy as np

from keras_kd.targets.answers import Answers
from keras_kd.targets.shards import write_whole

FILE = "manifest.json"
FORMAT = "keras_kd.targets 1"
KEY, INPUT_HASH, SEED = "key", "input_hash", "seed"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of stored answers. All but the last three is settled before the first shard.

    Attributes:
        teacher: The teacher's name.
        fingerprint: What tells it from other teachers: the SHA-256 of a model's weights.
        preprocessing: Name of the function between the inputs and the teacher; "" for none.
        inputs: Path, shape and dtype of each input of an example.
        key: The entry of the inputs that tells examples apart; "" for the hash of their bytes.
        answers: The form in which they are stored.
        views: Answers for each example.
        augment: Name of the function that made the views; "" for inputs as they are.
        seed: What the seeds of the views are drawn from.
        batch_size: Records that the teacher was asked for at once.
        shard_records: Records in every shard but the last; a multiple of `batch_size`.
        records: Answers in all; None while they are being written.
        shards: SHA-256 of each shard, in order.
        index: SHA-256 of the index.
    """

    teacher: str
    fingerprint: str
    preprocessing: str
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    key: str
    answers: Answers
    views: int
    augment: str
    seed: int
    batch_size: int
    shard_records: int
    records: int | None = None
    shards: tuple[str, ...] = ()
    index: str = ""

    @property
    def complete(self):
        """Whether all answers are there."""
        return self.records is not None

    @property
    def examples(self):
        """How many examples there are answers for; None while they are being written."""
        return None if self.records is None else self.records // self.views

    @property
    def read_as(self):
        """What the answers stand under in the data: another teacher's are not read for these."""
        return f"StoredTeacher:{self.teacher}:{self.fingerprint[:12]}"

    @property
    def hashes_apart(self):
        """Whether a record has a hash of the input beside its key."""
        return bool(self.key or self.augment)

    def record(self):
        """Returns the dtype of a record."""
        fields: list = [(KEY, "<i8")]
        if self.hashes_apart:
            fields.append((INPUT_HASH, "<i8"))
        if self.augment:
            fields.append((SEED, "<i8", (2,)))
        return np.dtype([*fields, *self.answers.fields()])

    def settled(self):
        """Returns the manifest as it was before the first shard."""
        return dataclasses.replace(self, records=None, shards=(), index="")

    def write(self, folder):
        """Writes the manifest to its folder."""
        values = {
            "format": FORMAT,
            **dataclasses.asdict(self),
            "answers": self.answers.to_json(),
        }
        text = json.dumps(values, indent=1) + "\n"
        write_whole(pathlib.Path(folder) / FILE, [text.encode()])

    @classmethod
    def read(cls, folder):
        """Reads the manifest of a folder.

        Raises:
            FileNotFoundError: If it has none.
            ValueError: If it is not one that this version reads.
        """
        path = pathlib.Path(folder) / FILE
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise KeyError("format")
            values["answers"] = Answers.from_json(values["answers"])
            values["inputs"] = tuple(
                (name, tuple(shape), dtype) for name, shape, dtype in values["inputs"]
            )
            return cls(**{**values, "shards": tuple(values["shards"])})
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise ValueError(
                f"Expected a manifest of stored answers, '{FORMAT}'. Received: '{path}' ({err})."
            ) from err

    def check_same(self, other, folder):
        """Refuses to go on with answers that were begun otherwise.

        Args:
            other: The manifest of what is to be written now.
            folder: Where, for the message.

        Raises:
            ValueError: Naming all that differs.
        """
        begun, wanted = self.settled().to_flat(), other.settled().to_flat()
        differing = [
            f"{name} was {begun.get(name)!r} and is {wanted.get(name)!r} now"
            for name in {**begun, **wanted}
            if begun.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(
                f"Expected to go on with the answers in '{folder}'. Received another task: "
                f"{'; '.join(differing)}. Hint: another folder, or remove this one."
            )

    def to_flat(self):
        """Returns all settings by name, those of the answers among them."""
        values = dataclasses.asdict(self)
        return {**values, **values.pop("answers")}
