"""
The head of a GGUF file: what the model is, and where its tensors are.

    "GGUF" version:u32 num_tensors:u64 num_values:u64
    num_values  times   key:string type:u32 value
    num_tensors times   name:string num_dims:u32 dim:u64... type:u32 offset:u64
    padding up to the alignment, then the tensors; offsets count from here

Numbers are little-endian; a string is a u64 length and its bytes; an array is a
u32 item type, a u64 count, and the items.  Dimensions stand innermost first.

A tokenizer's hundred thousand strings are read in a tenth of a second, and no
length is believed before it is compared with what is left of the file.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from workers.model.errors import CorruptModel, UnsupportedModel

GGUF_MAGIC = b"GGUF"
GGUF_VERSIONS = (2, 3)

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]

_NUMBER_FORMATS = "BbHhIif?"  # types 0 to 7
_STRING, _ARRAY = 8, 9
_WIDE_FORMATS = {10: "Q", 11: "q", 12: "d"}
_FORMATS = dict(enumerate(_NUMBER_FORMATS)) | _WIDE_FORMATS
_MAX_DIMS = 4


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """
    Where one tensor is.  shape is outermost dimension first, as torch has it.

    offset, num_bytes: from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    quantization: GGMLQuantizationType
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata and the table of tensors of a GGUF file."""

    values: dict[str, Value]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """
    Read the head of the GGUF file at path, and check that every tensor lies within it.

    Raises CorruptModel or UnsupportedModel.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _parse(_Cursor(data))
        except _Malformed as error:
            raise CorruptModel(path, str(error)) from error


class _Malformed(Exception):
    """The bytes are not what the format says."""


class _Cursor:
    """A position in the file that never moves past its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 0
        self.size = len(data)

    def take(self, num_bytes: int) -> int:
        """Move on by num_bytes and return where they begin."""
        start = self.position
        if num_bytes > self.size - start:
            raise _Malformed(f"{num_bytes} bytes at {start} in a file of {self.size} bytes")
        self.position += num_bytes
        return start

    def numbers(self, code: str, count: int) -> list[Scalar]:
        """Read count numbers of one struct format."""
        start = self.take(count * struct.calcsize("<" + code))
        return list(struct.unpack_from(f"<{count}{code}", self._data, start))

    def unsigned(self, code: str) -> int:
        """Read one unsigned integer: code I (32 bits) or Q (64 bits)."""
        [number] = self.numbers(code, 1)
        return int(number)

    def string(self) -> str:
        """Read a string."""
        num_bytes = self.unsigned("Q")
        start = self.take(num_bytes)
        try:
            return self._data[start : start + num_bytes].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Malformed(f"string at {start} is not UTF-8") from error

    def value(self) -> Value:
        """Read a value with its type before it."""
        kind = self.unsigned("I")
        if kind != _ARRAY:
            return self._items(kind, 1)[0]
        kind = self.unsigned("I")
        return self._items(kind, self.unsigned("Q"))

    def _items(self, kind: int, count: int) -> list[Scalar]:
        if kind in _FORMATS:
            return self.numbers(_FORMATS[kind], count)
        if kind != _STRING:
            raise _Malformed(f"value of unknown type {kind} at {self.position}")
        return [self.string() for _ in range(count)]


def _parse(cursor: _Cursor) -> GgufHeader:
    cursor.take(len(GGUF_MAGIC))
    version = cursor.unsigned("I")
    if version not in GGUF_VERSIONS:
        raise UnsupportedModel("GGUF version", version, GGUF_VERSIONS)
    num_tensors, num_values = cursor.unsigned("Q"), cursor.unsigned("Q")
    values: dict[str, Value] = {}
    for _ in range(num_values):
        key = cursor.string()
        values[key] = cursor.value()
    infos = [_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Malformed(f"general.alignment is {alignment!r}")
    data_start = -(-cursor.position // alignment) * alignment
    return GgufHeader(values, {i.name: _placed(i, data_start, cursor.size) for i in infos})


def _tensor_info(cursor: _Cursor) -> TensorInfo:
    """Read one row of the table; its offset still counts from the tensors' beginning."""
    name, num_dims = cursor.string(), cursor.unsigned("I")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise _Malformed(f"tensor {name} has {num_dims} dimensions")
    shape = tuple(cursor.unsigned("Q") for _ in range(num_dims))[::-1]
    kind, offset = cursor.unsigned("I"), cursor.unsigned("Q")
    try:
        quantization = GGMLQuantizationType(kind)
    except ValueError as error:
        raise _Malformed(f"tensor {name} has unknown type {kind}") from error
    block_size, block_bytes = GGML_QUANT_SIZES[quantization]
    num_values = math.prod(shape)
    if num_values == 0 or shape[-1] % block_size:
        raise _Malformed(f"tensor {name} has shape {shape} in blocks of {block_size}")
    return TensorInfo(name, shape, quantization, offset, num_values // block_size * block_bytes)


def _placed(info: TensorInfo, data_start: int, file_bytes: int) -> TensorInfo:
    offset = data_start + info.offset
    if offset + info.num_bytes > file_bytes:
        raise _Malformed(
            f"tensor {info.name} ends at byte {offset + info.num_bytes}, the file at {file_bytes}"
        )
    return replace(info, offset=offset)
