"""ModelInfo: what a file of weights says of itself, beside the weights.

A run's snapshots, `save_weights` and `convert_weights` write it as JSON into the header of a safetensors file, or
beside the dict of tensors in a torch file. A copy of the file has it, too.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from swinpy.io.costs import json_cost
from swinpy.io.errors import plain
from swinpy.models.config import SwinConfig
from swinpy.preparation import Preparation
from swinpy.weights.given import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["METADATA", "ModelInfo", "config_from_json", "info_of_metadata"]

METADATA = "swinpy"  # the name of the text in a file
_VERSION = 1
_KEYS = {"class_names", "config", "dataset", "model", "preparation", "synthetic", "version"}
_MOST = {int: 1 << 31, float: 1e38}  # no number of a configuration is larger
_LONGEST = 64  # no list of one is longer
_NAME = 4096  # letters: a folder's name of 255 bytes, all escaped, has 1020
_ROOM = 4 << 20  # bytes beside the file's own size


@dataclass(frozen=True)
class ModelInfo:
    """What is needed to use weights, and what made them.

    Attributes:
        config: of the model.
        preparation: of the images that it was trained and evaluated on; None where nobody said.
        class_names: one a class, in their order; () where nobody said. The last outputs of a head may have none.
        model: the name that the configuration began from; "" without one.
        dataset: what it was trained on.
        synthetic: whether no camera took those pictures.

    Raises:
        ValueError: more names than the model has classes.
    """

    config: SwinConfig
    preparation: Preparation | None = None
    class_names: tuple[str, ...] = ()
    model: str = ""
    dataset: str = ""
    synthetic: bool = False

    def __post_init__(self) -> None:
        if len(self.class_names) > self.config.num_classes:
            raise ValueError(
                f"ModelInfo: expected at most {self.config.num_classes} class names, one for each class of the model; "
                f"got {len(self.class_names)}."
            )

    def metadata(self, size: int) -> dict[str, str]:
        """The text of a file, by its name.

        Args:
            size: bytes of the weights. Names of classes that a reader would refuse beside so few are left out.
        """
        text = self._text(self.class_names)
        header = json.dumps(text, ensure_ascii=False)  # as it stands in a safetensors file
        if max(json_cost(text.encode()), json_cost(header.encode())) > _ROOM + size:
            text = self._text(())
        return {METADATA: text}

    def _text(self, names: tuple[str, ...]) -> str:
        config = {k: "-inf" if v == -math.inf else v for k, v in self.config.to_dict().items()}  # JSON has no infinity
        values = {
            "version": _VERSION,
            "model": self.model,
            "config": config,
            "preparation": self.preparation and self.preparation.to_dict(),
            "class_names": [_in_utf8(name) for name in names],
            "dataset": _in_utf8(self.dataset),
            "synthetic": self.synthetic,
        }
        return json.dumps(values, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))

    def class_name(self, index: int) -> str:
        """The name of a class; its number where it has none."""
        return plain(self.class_names[index]) if index < len(self.class_names) else f"class {index}"

    def lines(self) -> list[str]:
        """For a terminal."""
        names = [self.class_name(i) for i in range(min(5, len(self.class_names)))]
        more = len(self.class_names) - len(names)
        default = {f.name: f.default for f in fields(SwinConfig)}
        changed = ", ".join(f"{k}={v!r}" for k, v in self.config.to_dict().items() if v != default[k])
        trained = plain(self.dataset) + (" (synthetic)" if self.synthetic else "")
        return [
            f"model: {plain(self.model) or 'without a name'}, SwinConfig({changed})",
            *([f"trained on: {trained}"] if self.dataset else []),
            f"images: {self.preparation or 'not said'}",
            f"classes: {', '.join(names) or 'no names'}{f' and {more} more' if more else ''}",
        ]


def _in_utf8(text: str) -> str:
    """Names of folders need not be UTF-8: their odd bytes are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _in_bounds(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _LONGEST and all(type(v) is int and abs(v) < _MOST[int] for v in value)
    return type(value) not in _MOST or abs(value) < _MOST[type(value)]


def config_from_json(values: Any) -> SwinConfig:
    """A configuration from the JSON of its `to_dict`; -inf is written as text there.

    Raises:
        ValueError, TypeError: it is none, or has numbers and lists that no model has.
    """
    if type(values) is not dict:
        raise ValueError("config is no object")
    unknown = values.keys() - {field.name for field in fields(SwinConfig)}
    if unknown:
        raise ValueError(f"config has an unknown option {min(unknown)[:40]!a}")
    far = [name for name, value in values.items() if not _in_bounds(value)]
    if far:
        raise ValueError(f"config has too large a value for {far[0][:40]!a}")
    if values.get("mask_value") == "-inf":
        values = {**values, "mask_value": -math.inf}
    return SwinConfig(**values)


def _is_name(value: Any) -> bool:
    return type(value) is str and len(value) <= _NAME


def _parse(text: str) -> ModelInfo:
    """What `ModelInfo.metadata` has written.

    Raises:
        ValueError: anything else; the message says what.
    """
    values = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    if type(values) is not dict or type(values.get("version")) is not int:
        raise ValueError("it has no version")
    if values["version"] != _VERSION:
        raise ValueError(f"it is of version {str(values['version'])[:20]}, written by another version of swinpy")
    wrong = sorted(values.keys() ^ _KEYS)
    if wrong:
        raise ValueError(f"it has other keys than it should: {wrong[0][:40]!a}")
    names, made = values["class_names"], values["preparation"]
    if type(names) is not list or not all(map(_is_name, names)):
        raise ValueError("class_names is no list of names")
    if not _is_name(values["model"]) or not _is_name(values["dataset"]) or type(values["synthetic"]) is not bool:
        raise ValueError("model, dataset and synthetic are not two names, and true or false")
    preparation = None if made is None else Preparation.from_dict(made)
    config = config_from_json(values["config"])
    return ModelInfo(config, preparation, tuple(names), values["model"], values["dataset"], values["synthetic"])


def info_of_metadata(metadata: Mapping[str, Any], size: int, where: str) -> ModelInfo | None:
    """What a file's metadata say of its weights; None where they say nothing.

    Args:
        metadata: of a safetensors file, or the outermost dict of a torch file.
        size: of the file, which bounds what may be made of its text.
        where: what a message calls the file.

    Raises:
        WeightsError: damaged, hostile, or written by another version.
    """
    text = metadata.get(METADATA)
    if type(text) is not str:
        return None
    try:
        if json_cost(text.encode("utf-8", "surrogatepass")) > _ROOM + size:
            raise ValueError(f"it is long: {len(text)} letters in a file of {size} bytes")
        return _parse(text)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = "it is nested deeply" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(
            f"model info: expected what swinpy writes of a model in {where}; got a damaged one: "
            f"{plain(reason[:300].rstrip('.'))}. To go without it: --model NAME of predict and convert."
        ) from None
