"""Hostile tensors and trees in sound pickles, each in an otherwise sound zip file."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .corpus import VECTOR, legal, refused
from .pickles import zip_of
from .weight_files import Raw, Tensor, call, glob, join, storage_id

__all__ = ["TENSORS"]


def _tensor(storages: dict[str, bytes] | None = None, **fields: Any) -> bytes:
    options = {name: fields.pop(name) for name in ("byteorder", "modern") if name in fields}
    return zip_of({"w": Tensor(**fields)}, storages, **options)


_WITHIN = "a tensor within its storage"
_SPARSE = call(glob("torch._utils", "_rebuild_sparse_tensor"), glob("torch", "sparse_coo"), (Tensor(), Tensor(), (3,)))
_QUANTIZED = call(
    glob("torch._utils", "_rebuild_qtensor"),
    storage_id(Tensor(kind="QInt8Storage", numel=12)),
    0,
    (12,),
    (1,),
    (glob("torch", "per_tensor_affine"), 0.5, 0),
    False,
    call(glob("collections", "OrderedDict")),
)
_SHARED = {"0": np.arange(12, dtype=np.float32).tobytes()}
TENSORS = [
    refused("offset-negative", partial(_tensor, offset=-1), _WITHIN),
    refused("offset-beyond", partial(_tensor, offset=1), _WITHIN),
    refused("offset-huge", partial(_tensor, offset=(1 << 63) - 1), _WITHIN),
    refused("offset-overflow", partial(_tensor, offset=1 << 64), _WITHIN),
    refused("offset-long4", partial(_tensor, offset=1 << 2000), _WITHIN),
    refused("offset-float", partial(_tensor, offset=0.0), _WITHIN),
    refused("offset-bool", partial(_tensor, offset=False), _WITHIN),
    refused("offset-none", partial(_tensor, offset=None), _WITHIN),
    refused("stride-negative", partial(_tensor, strides=(-1,), offset=2), "the strides"),
    refused("stride-huge", partial(_tensor, strides=((1 << 63) - 1,)), _WITHIN),
    refused("stride-overflow", partial(_tensor, strides=(1 << 62,)), _WITHIN),
    refused("stride-long4", partial(_tensor, strides=(1 << 2000,)), "the strides"),
    refused("stride-text", partial(_tensor, strides=("1",)), "the strides"),
    refused("strides-missing", partial(_tensor, strides=()), "as many strides"),
    refused("strides-dict", partial(_tensor, strides={}), "the strides"),
    refused("shape-negative", partial(_tensor, shape=(-3,)), "the shape"),
    refused("shape-beyond", partial(_tensor, shape=(4,)), _WITHIN),
    refused("shape-huge", partial(_tensor, shape=(1 << 62, 4), strides=(4, 1)), _WITHIN),
    refused("shape-long4", partial(_tensor, shape=(1 << 2000,)), "the shape"),
    refused("shape-record", partial(_tensor, shape=glob("torch", "Size")), "the shape"),
    refused("shape-65-dims", partial(_tensor, shape=(1,) * 65, strides=(1,) * 65), "at most 64 dimensions"),
    legal(
        "shape-64-dims", partial(_tensor, shape=(1,) * 63 + (3,), strides=(1,) * 64), w=VECTOR.reshape((1,) * 63 + (3,))
    ),
    refused("expanded-huge", partial(_tensor, shape=(1 << 40,), strides=(0,)), "16 times the file"),
    refused("expanded-overflow", partial(_tensor, shape=(1 << 40, 1 << 40), strides=(0, 0)), "that can be addressed"),
    refused("zero-size-overflow", partial(_tensor, shape=(0, 1 << 62, 1 << 62), strides=(1, 1, 1)), "can be addressed"),
    refused("zero-size-beyond", partial(_tensor, shape=(0,), offset=4), _WITHIN),
    legal("zero-size-at-end", partial(_tensor, shape=(0,), offset=3), w=np.zeros(0, np.float32)),
    legal("expanded", partial(_tensor, shape=(2, 3), strides=(0, 1)), w=np.stack([VECTOR, VECTOR])),
    legal("one-element-axis-any-stride", partial(_tensor, shape=(3, 1), strides=(1, (1 << 63) - 1)), w=VECTOR[:, None]),
    legal("overlapping-windows", partial(_tensor, shape=(2, 2), strides=(1, 1)), w=np.array([VECTOR[:2], VECTOR[1:]])),
    legal("device-cuda", partial(_tensor, device="cuda:0"), w=VECTOR),
    legal("device-odd", partial(_tensor, device="../../etc/passwd"), w=VECTOR),
    legal("module-cuda", partial(_tensor, module="torch.cuda"), w=VECTOR),
    legal("rebuild-v1", partial(_tensor, version="v1"), w=VECTOR),
    legal("rebuild-parameter", partial(_tensor, version="parameter"), w=VECTOR),
    legal("scalar", partial(_tensor, shape=(), strides=(), offset=2), w=VECTOR[2]),
    legal("big-endian", partial(_tensor, {"0": VECTOR.astype(">f4").tobytes()}, byteorder=b"big"), w=VECTOR),
    legal("no-byteorder", partial(_tensor, byteorder=None, modern=False), w=VECTOR),
    refused("byteorder-wrong", partial(_tensor, byteorder=b"middle"), "'little' or 'big'"),
    refused("byteorder-empty", partial(_tensor, byteorder=b""), "'little' or 'big'"),
    refused("byteorder-long", partial(_tensor, byteorder=b"little" * 1000), "'little' or 'big'"),
    refused("byteorder-newline", partial(_tensor, byteorder=b"little\n"), "'little' or 'big'"),
    refused("numel-too-many", partial(_tensor, numel=4), "4 elements of float32"),
    refused("numel-too-few", partial(_tensor, numel=2, shape=(2,)), "2 elements of float32"),
    refused("numel-negative", partial(_tensor, numel=-3), "a key and a number"),
    refused("numel-huge", partial(_tensor, numel=1 << 62), "elements of float32"),
    refused("numel-long4", partial(_tensor, numel=1 << 2000), "a key and a number"),
    refused("numel-float", partial(_tensor, numel=3.0), "a key and a number"),
    refused("storage-missing", partial(_tensor, key="9"), "an entry data/9"),
    refused("storage-key-path", partial(_tensor, key="../data.pkl"), "an entry data/"),
    refused("storage-key-absolute", partial(_tensor, key="/etc/passwd"), "an entry data/"),
    refused("storage-key-nul", partial(_tensor, key="0\0"), "an entry data/"),
    refused("storage-key-number", partial(_tensor, key=0), "a key and a number"),
    refused("storage-key-escape", partial(_tensor, key="\x1b[2J"), "an entry data/"),
    refused("storage-class-unknown", partial(_tensor, kind="EvilStorage"), "storage classes"),
    refused("storage-class-elsewhere", partial(_tensor, module="os"), "storage classes"),
    refused(
        "storage-class-text",
        partial(
            zip_of,
            {
                "w": call(
                    glob("torch._utils", "_rebuild_tensor"),
                    Raw(join(("storage", "FloatStorage", "0", "cpu", 3)) + b"Q"),
                    0,
                    (3,),
                    (1,),
                )
            },
        ),
        "storage classes",
    ),
    refused("storage-other-dtype", partial(_tensor, kind="DoubleStorage"), "3 elements of float64"),
    refused("storage-two-dtypes", partial(zip_of, {"w": Tensor(), "v": Tensor(kind="IntStorage")}), "described once"),
    refused(
        "storage-is-text",
        partial(zip_of, {"w": call(glob("torch._utils", "_rebuild_tensor"), "0", 0, (3,), (1,))}),
        "a storage under a tensor",
    ),
    refused(
        "tensor-few-arguments",
        partial(zip_of, {"w": call(glob("torch._utils", "_rebuild_tensor_v2"), storage_id(Tensor()), 0, (3,))}),
        "arguments for a tensor",
    ),
    refused(
        "parameter-of-text",
        partial(zip_of, {"w": call(glob("torch._utils", "_rebuild_parameter"), "x", True, None)}),
        "a tensor in a parameter",
    ),
    refused(
        "parameter-few-arguments",
        partial(zip_of, {"w": call(glob("torch._utils", "_rebuild_parameter"), Tensor())}),
        "arguments for a parameter",
    ),
    refused(
        "ordered-dict-of-numbers",
        partial(zip_of, {"w": call(glob("collections", "OrderedDict"), [1, 2])}),
        "an OrderedDict",
    ),
    refused(
        "ordered-dict-of-text",
        partial(zip_of, {"w": call(glob("collections", "OrderedDict"), "ab", "cd")}),
        "an OrderedDict",
    ),
    legal(
        "ordered-dict-of-pairs", partial(zip_of, call(glob("collections", "OrderedDict"), [["w", Tensor()]])), w=VECTOR
    ),
    refused("persistent-text", partial(zip_of, {"w": Raw(join("0") + b"Q")}), "a persistent id"),
    refused("persistent-four", partial(zip_of, {"w": Raw(join(("storage", 1, "0", "cpu")) + b"Q")}), "a persistent id"),
    refused("persistent-six", partial(zip_of, {"w": Raw(storage_id(Tensor(), legacy=True).code)}), "a persistent id"),
    refused(
        "persistent-other",
        partial(zip_of, {"w": Raw(join(("module", glob("torch", "FloatStorage"), "0", "cpu", 3)) + b"Q")}),
        "a persistent id",
    ),
    refused("sparse", partial(zip_of, {"w": _SPARSE}), "a tensor of a kind that is not read"),
    refused("quantized", partial(zip_of, {"w": _QUANTIZED}), "a tensor of a kind that is not read"),
    refused(
        "conjugated",
        partial(
            zip_of,
            {
                "w": call(
                    glob("torch._utils", "_rebuild_tensor_v2"),
                    storage_id(Tensor()),
                    0,
                    (3,),
                    (1,),
                    False,
                    None,
                    {"conj": True},
                )
            },
        ),
        "a tensor of a kind that is not read",
    ),
    refused(
        "meta",
        partial(
            zip_of,
            {
                "w": call(
                    glob("torch._utils", "_rebuild_meta_tensor_no_storage"), glob("torch", "float32"), (3,), (1,), False
                )
            },
        ),
        "a tensor of a kind that is not read",
    ),
    refused(
        "float8",
        partial(
            _tensor,
            kind="UntypedStorage",
            module="torch.storage",
            numel=12,
            shape=(12,),
            version="v3",
            dtype="float8_e5m2",
        ),
        "which NumPy does not have",
    ),
    refused(
        "dtype-of-the-future",
        partial(
            _tensor, kind="UntypedStorage", module="torch.storage", numel=12, shape=(12,), version="v3", dtype="float3"
        ),
        "a tensor of a kind that is not read",
    ),
    legal(
        "untyped",
        partial(_tensor, kind="UntypedStorage", module="torch.storage", numel=12, version="v3", dtype="float32"),
        w=VECTOR,
    ),
    refused(
        "untyped-beyond",
        partial(
            _tensor, kind="UntypedStorage", module="torch.storage", numel=12, shape=(4,), version="v3", dtype="float32"
        ),
        _WITHIN,
    ),
    refused("typed-otherwise", partial(_tensor, version="v3", dtype="int32"), "as the storage has"),
    refused("bool-of-two", partial(_tensor, {"0": b"\1\2\0"}, kind="BoolStorage"), "bools of 0 and 1"),
    refused("name-number", partial(zip_of, {0: Tensor()}), "whose name is no text"),
    refused("no-tensors", partial(zip_of, {"epoch": 3}), "tensors by name"),
    refused("top-list", partial(zip_of, [Tensor()]), "tensors by name"),
    refused("top-object", partial(zip_of, Raw(b"cmodels\nSwin\n)\x81}b")), "an object of models.Swin"),
    refused(
        "two-candidates",
        partial(zip_of, {"a": {"w": Tensor()}, "b": {"w": Tensor()}}),
        "Choose one with entry=: 'a', 'b'",
    ),
    legal(
        "shared-storage",
        partial(
            zip_of,
            {"w": Tensor(numel=12, shape=(6,)), "v": Tensor(numel=12, shape=(3, 2), strides=(1, 3), offset=6)},
            _SHARED,
        ),
        w=np.arange(6, dtype=np.float32),
        v=np.arange(6, 12, dtype=np.float32).reshape(2, 3).T,
    ),
    refused(
        "shared-a-million-fold",
        lambda: zip_of({str(i): Tensor(numel=1 << 18, shape=(1 << 18,)) for i in range(30)}, {"0": bytes(1 << 20)}),
        "16 times the file",
    ),
]
