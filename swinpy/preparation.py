"""Preparation: how an image becomes a model's input when nothing is drawn by chance.

It lies on the ground floor because all who need it stand above: datasets evaluate by it, models of known names have
one, weights carry the one they were trained with, and ``predict`` uses that. `swinpy.data.prepare` does what it says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["Interpolation", "Preparation"]

Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
_LARGEST = 1 << 26  # pixels: 256 MiB of bytes and floats; no image that is larger is made
_FAR = 1e6  # no mean or standard deviation is as large, and no standard deviation as small as its inverse


def _whole(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST


def _sides(value: Any) -> bool:
    whole = isinstance(value, tuple) and len(value) == 2 and all(map(_whole, value))
    return whole and value[0] * value[1] <= _LARGEST


def _three(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(v, Real) and not isinstance(v, bool) and abs(float(v)) < _FAR for v in value)
    )


@dataclass(frozen=True)
class Preparation:
    """Resize, crop and normalisation of an image.

    Attributes:
        resize: pixels of the shorter side, or (H, W) regardless of the image's proportions.
        crop: (H, W) cut from the centre; None for no crop.
        interpolation: of the resize.
        mean: of each channel, of values in [0, 1].
        std: likewise.

    Raises:
        ValueError: for a value that is none of these, or more than 2^26 pixels.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int] | None
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        resized, cropped = _sides(self.resize), self.crop is not None
        for name, good, expected in (
            ("resize", resized or (_whole(self.resize) and cropped), "(H, W), or one number and a crop"),
            ("crop", not cropped or _sides(self.crop), "(H, W) or None"),
            ("interpolation", self.interpolation in get_args(Interpolation), "'bicubic' or 'bilinear'"),
            ("mean", _three(self.mean), "three numbers"),
            ("std", _three(self.std) and min(self.std) > 1 / _FAR, "three positive numbers"),
        ):
            if not good:
                raise ValueError(f"Preparation: expected {name} to be {expected}; got {str(getattr(self, name))[:60]}.")
        for name in ("mean", "std"):  # NumPy's numbers, too, are written as JSON
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the input."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Preparation:
        """What :meth:`to_dict` gave, from JSON.

        Raises:
            ValueError: for anything else.
        """
        names = {field.name for field in fields(cls)}
        if type(values) is not dict or values.keys() != names:
            raise ValueError(f"Preparation: expected {', '.join(sorted(names))}; got {str(values)[:60]}.")
        listed: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in values.items()}
        return cls(**listed)

    def __str__(self) -> str:
        if isinstance(self.resize, int):
            resized = f"shorter side resized to {self.resize}"
        else:
            resized = "resized to {}x{}".format(*self.resize)
        cropped = "" if self.crop is None else ", {}x{} cropped from the centre".format(*self.crop)
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"{resized} ({self.interpolation}){cropped}, mean {mean}, std {std}"
