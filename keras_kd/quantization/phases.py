"""When quantization begins, and when what it measures is held fast."""

import keras

from keras_kd.quantization.layers import FakeQuantize, Quantized


def is_quantized(model):
    """Returns whether there is a quantized layer in a model, or in a model inside of it."""
    return any(True for _ in _quantized_layers(model))


def set_phase(model, *, quantizing=True, observing=True, batch_statistics=True):
    """Says what training does from now on; inference always computes as the device.

    The step that `fit` has compiled already does not hear of it: compile again, or use the callback
    `Phases`.

    Args:
        model: What `quantize_aware` returned, or a model or `Distiller` that holds it.
        quantizing: Whether weights and activations are rounded.
        observing: Whether the ranges of activations move.
        batch_statistics: Whether BatchNormalization normalizes by the batch and moves its averages.

    Raises:
        ValueError: There is no quantized layer in the model.
    """
    found = list(_quantized_layers(model))
    if not found:
        raise ValueError(
            f"Expected a model made by quantize_aware. Received: '{model.name}', which has no "
            "quantized layer."
        )
    for layer in found:
        layer.quantizing = quantizing
        if isinstance(layer, FakeQuantize):
            layer.observing = observing
        else:
            layer.batch_statistics = batch_statistics


class Phases(keras.callbacks.Callback):
    """Starts quantization late, and freezes ranges and BatchNormalization towards the end.

    All epochs count from 0, as `fit` counts them, so a run that is resumed is in its phase.

    Args:
        start_epoch: The first epoch that rounds; ranges are observed from the beginning.
        freeze_ranges_epoch: The first epoch in which ranges stay; None for never.
        freeze_batch_norm_epoch: The first epoch in which BatchNormalization uses its averages, as
            the device will, and leaves them alone; None for never.

    Reference: Jacob et al., arXiv:1712.05877, section 3.1; Krishnamoorthi, arXiv:1806.08342,
    section 3.2.2.

    Example:
        >>> phases = keras_kd.quantization.Phases(freeze_batch_norm_epoch=8)
        >>> student.fit(x_train, y_train, epochs=10, callbacks=[phases])
    """

    def __init__(self, *, start_epoch=0, freeze_ranges_epoch=None, freeze_batch_norm_epoch=None):
        super().__init__()
        given = {
            "start_epoch": start_epoch,
            "freeze_ranges_epoch": freeze_ranges_epoch,
            "freeze_batch_norm_epoch": freeze_batch_norm_epoch,
        }
        for name, epoch in given.items():
            if epoch is not None and not (isinstance(epoch, int) and epoch >= 0):
                raise ValueError(f"Expected {name} to be a number of epochs. Received: {epoch!r}.")
        self.start_epoch = start_epoch
        self.freeze_ranges_epoch = freeze_ranges_epoch
        self.freeze_batch_norm_epoch = freeze_batch_norm_epoch
        self._phase = None

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the epoch's phase, and has the step compiled anew where it is another one."""
        phase = {
            "quantizing": epoch >= self.start_epoch,
            "observing": not _reached(epoch, self.freeze_ranges_epoch),
            "batch_statistics": not _reached(epoch, self.freeze_batch_norm_epoch),
        }
        if phase != self._phase:
            self._phase = phase
            set_phase(self.model, **phase)
            self.model.make_train_function(force=True)


def _reached(epoch, first):
    return first is not None and epoch >= first


def _quantized_layers(model):
    """Yields the quantized layers of a model and of the models inside of it."""
    for layer in model.layers:
        if isinstance(layer, FakeQuantize | Quantized):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _quantized_layers(layer)
