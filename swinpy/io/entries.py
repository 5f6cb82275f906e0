"""Which part of a checkpoint holds the weights, and what the rest is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swinpy.io.costs import ENTRY, NAME_LIMIT, OBJECT
from swinpy.io.errors import Fault, plain, shown
from swinpy.io.records import Call, Global, Storage, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from swinpy.io.source import Budget

__all__ = ["ENTRIES", "Survey"]

# The names under which training scripts keep a model's weights, in files and in memory; the first found wins. Averaged
# copies come last: they are taken when there is nothing else, or when asked for. Of a self-distilled pair the teacher
# is taken, as EsViT's own programs do (--checkpoint_key).
ENTRIES = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_ema",
    "state_dict_ema",
    "ema",
    "params_ema",
    "teacher",
)
_DEPTH = 4
_LISTED = 8


def _is_tensor_like(value: Any) -> bool:
    """Whether a value is a tensor, or the record of one that cannot be read (quantized, sparse, of an unknown type)."""
    if type(value) is Call and type(value.function) is Global:
        module, name = value.function.module, value.function.name
        return (module in ("torch._utils", "torch._tensor") and name.startswith("_rebuild")) or module == "safetensors"
    return type(value) is StoredTensor


class Survey:
    """A tree of dicts, looked through once: a dict that is met in many places is counted in one.

    Args:
        tree: a file's, or one in memory.
        is_tensor: what counts as a tensor in it.
        budget: what the file may take, for what is told about it; None for a tree in memory, of which nothing is told.
    """

    def __init__(
        self, tree: Any, is_tensor: Callable[[Any], bool] = _is_tensor_like, budget: Budget | None = None
    ) -> None:
        self._tree = tree
        self._is_tensor = is_tensor
        self._budget = budget
        self._counted: dict[int, int] = {}

    def _tensors_in(self, value: Mapping[Any, Any]) -> int:
        count = self._counted.get(id(value))
        if count is None:
            count = self._counted[id(value)] = sum(self._is_tensor(item) for item in value.values())
        return count

    def _holds(self, value: Any) -> bool:
        return isinstance(value, Mapping) and self._tensors_in(value) > 0

    def choose(self, entry: str | None) -> tuple[tuple[str, ...], Mapping[Any, Any]]:
        """The weights in the tree.

        With ``entry``, what lies there. Else, from the top: the first of `ENTRIES` that holds tensors, itself or by the
        same rule further down; else this level, if it holds tensors; else the only thing in it that does.

        Args:
            entry: names joined by dots, "" for the top, or None to search.

        Returns:
            The names on the way, and the dict of tensors.

        Raises:
            Fault: there is no such entry, no tensor at all, or more than one candidate.
        """
        if entry is not None:
            return self._walk(entry)
        found = self.search()
        if found is None:
            fix = "If it is a whole pickled model, load it where it was made and torch.save its state_dict()."
            expected = "tensors by name, at the top or under one of " + ", ".join(ENTRIES[:4])
            raise Fault(expected, self.describe(self._tree), fix)
        return found

    def search(self) -> tuple[tuple[str, ...], Mapping[Any, Any]] | None:
        """What `choose` finds without an entry; None where there is no tensor.

        Raises:
            Fault: there is more than one candidate.
        """
        return self._search(self._tree, (), set())

    def _walk(self, entry: str) -> tuple[tuple[str, ...], Mapping[Any, Any]]:
        """Follow names joined by dots; a name may itself contain dots, and the longest that fits is taken."""
        tree, rest = self._tree, entry
        path: list[str] = []
        while rest:
            names = [name for name in tree if type(name) is str and name] if isinstance(tree, Mapping) else []
            fitting = [name for name in names if rest.startswith(name) and rest[len(name) : len(name) + 1] in ("", ".")]
            if not fitting:
                there = ", ".join(shown(name) for name in names[:_LISTED])
                fix = f"Pass one of: {there}." if there else "Pass no entry."
                raise Fault(f"an entry {shown(entry)}", f"none at {shown(rest)}", fix)
            path.append(max(fitting, key=len))
            tree, rest = tree[path[-1]], rest[len(path[-1]) + 1 :]
        if not self._holds(tree):
            raise Fault(f"tensors by name in entry {shown(entry)}", self.describe(tree), "Pass another entry, or none.")
        return tuple(path), tree

    def _search(
        self, tree: Any, path: tuple[str, ...], seen: set[int]
    ) -> tuple[tuple[str, ...], Mapping[Any, Any]] | None:
        if not isinstance(tree, Mapping) or len(path) == _DEPTH or id(tree) in seen:
            return None
        seen.add(id(tree))
        for name in ENTRIES:
            found = self._search(tree.get(name), (*path, name), seen)
            if found is not None:
                return found
        if self._holds(tree):
            return path, tree
        candidates = [name for name, value in tree.items() if type(name) is str and self._holds(value)]
        if len(candidates) > 1:
            names = ", ".join(shown(".".join((*path, name[:NAME_LIMIT]))) for name in candidates[:_LISTED])
            raise Fault("one set of tensors", f"{len(candidates)}", f"Choose one with entry=: {names}.")
        return ((*path, candidates[0]), tree[candidates[0]]) if candidates else None

    def split(
        self, weights: Mapping[Any, Any], prefix: str, skipped: dict[str, str]
    ) -> tuple[dict[str, StoredTensor], list[str]]:
        """Sort what lies in the weights' dict.

        Args:
            weights: the dict.
            prefix: the way to it, with a dot behind each name.
            skipped: takes everything that is no tensor, by its own way, with what it is.

        Returns:
            The tensors by name, and which of ``skipped`` are tensors after all, but of a kind that cannot be read.

        Raises:
            Fault: a name that no tensor has, or more to tell than the file's size warrants.
        """
        tensors: dict[str, StoredTensor] = {}
        unreadable: list[str] = []
        for name, value in weights.items():
            if type(name) is str and type(value) is StoredTensor and value.dtype.code:
                self._check_name(name)
                self._charge(ENTRY)
                tensors[name] = value
                continue
            lacking = ", whose name is no text" if type(name) is not str and _is_tensor_like(value) else ""
            label = self._tell(skipped, prefix, name, self.describe(value) + lacking)
            if _is_tensor_like(value):
                unreadable.append(label)
        return tensors, unreadable

    def around(self, path: tuple[str, ...]) -> dict[str, str]:
        """What lies beside the way from the top to the weights, by its own way."""
        found: dict[str, str] = {}
        tree, prefix = self._tree, ""
        for step in path:
            self._check_name(step)
            for name, value in tree.items():
                if name != step:
                    self._tell(found, prefix, name, self.describe(value))
            tree, prefix = tree[step], f"{prefix}{step}."
        return found

    def _tell(self, found: dict[str, str], prefix: str, name: Any, what: str) -> str:
        """Note what lies at a name; a name and what there is to say of its value are short, but there may be many."""
        if type(name) is str:
            self._check_name(name)
        else:
            name = shown(name)
        self._charge(ENTRY + 2 * OBJECT + 4 * (len(prefix) + len(name) + len(what)))
        found[prefix + name] = what
        return prefix + name

    def _charge(self, count: int) -> None:
        if self._budget is not None:
            self._budget.take(count)

    @staticmethod
    def _check_name(name: str) -> None:
        if len(name) > NAME_LIMIT:
            raise Fault(f"names of at most {NAME_LIMIT} characters", f"{shown(name)} of {len(name)}")

    def describe(self, value: Any) -> str:
        """A value of the tree in a few words."""
        if type(value) is StoredTensor:
            lacking = "" if value.dtype.code else ", which NumPy does not have"
            return f"a tensor of {value.dtype.name}{lacking}"
        if type(value) is Call:
            name = plain(str(value.function)) if type(value.function) is Global else "something nested"
            if _is_tensor_like(value):
                return f"a tensor of a kind that is not read ({name})"
            return f"an object of {name}, not made"
        if type(value) is Global:
            return f"the name {plain(str(value))}"
        if type(value) is Storage:
            return f"a storage of {value.numel} elements of {value.dtype.name}"
        if isinstance(value, Mapping):
            count = self._tensors_in(value)
            return f"a dict of {len(value)}" + (f", {count} of them tensors" if count else "")
        return shown(value)
