"""What the losses with one part of their own have in common."""

import keras


class OnePart:
    """Mixed in front of a loss's base: one layer belongs to the loss.

    The layer is made in `connect` and is what the constructor's argument of the same name takes;
    None until then.

    Attributes:
        part_name: The attribute and the argument that hold the layer: "memory".
    """

    part_name = ""

    @property
    def parts(self):
        """The layer, once it is made."""
        part = getattr(self, self.part_name)
        return () if part is None else (part,)

    def is_connected(self):
        """Returns whether the layer is made and the base has nothing left to settle."""
        return super().is_connected() and getattr(self, self.part_name) is not None

    def get_config(self):
        """Returns the arguments of the constructor."""
        part = getattr(self, self.part_name)
        config = None if part is None else keras.saving.serialize_keras_object(part)
        return {**super().get_config(), self.part_name: config}

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        part = config[cls.part_name]
        if isinstance(part, dict):
            part = keras.saving.deserialize_keras_object(part)
        return super().from_config({**config, cls.part_name: part})
