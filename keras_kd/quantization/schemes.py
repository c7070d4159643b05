"""Which integers a student is made of."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The integers of a quantized student.

    Attributes:
        name: As it is called.
        weight_bits: Of the kernels' type: 4 or 8. Where the runtime has none of 4, 8 are taken.
        per_channel: Whether each output channel of a convolution has a scale of its own.
        activation_bits: Of the activations' type: 8 or 16.

    Raises:
        ValueError: For other numbers of bits.
    """

    name: str
    weight_bits: int = 8
    per_channel: bool = True
    activation_bits: int = 8

    def __post_init__(self):
        if self.weight_bits not in (4, 8):
            raise ValueError(f"Expected weight_bits to be 4 or 8. Received: {self.weight_bits}.")
        if self.activation_bits not in (8, 16):
            raise ValueError(
                f"Expected activation_bits to be 8 or 16. Received: {self.activation_bits}."
            )
        if (self.weight_bits, self.activation_bits) == (4, 16):
            raise ValueError(
                "Expected weight_bits=8 for activations of 16 bits, as the runtimes' kernels have "
                "them. Received: 4."
            )


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8"),
        Scheme("int8_per_tensor", per_channel=False),
        Scheme("int8x4", weight_bits=4),
        Scheme("int16x8", activation_bits=16),
    )
}


def scheme_named(scheme):
    """Returns the `Scheme` of a name; a `Scheme` itself as it is."""
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        raise ValueError(f"Expected a scheme of {', '.join(SCHEMES)}. Received: {scheme!r}.")
    return SCHEMES[scheme]
