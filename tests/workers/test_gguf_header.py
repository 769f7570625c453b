import struct
from contextlib import suppress

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.model.errors import CorruptModel, ModelError, UnsupportedModel
from workers.model.gguf_header import read_header


@pytest.fixture(scope="module", name="path")
def _path(tmp_path_factory):
    """A file with a value of each type and two tensors, written by the gguf package."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -3)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -300)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -70_000)
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "Straße")
    writer.add_array("a.strings", ["x", "", "yz"])
    writer.add_array("a.integers", [1, -2, 3])
    writer.add_uint64("a.u64", 2**40)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float64("a.f64", 0.1)
    writer.add_tensor("first", np.arange(6, dtype=np.float32).reshape(2, 3))
    blocks = np.zeros((4, 68), dtype=np.uint8)  # four rows of two blocks of 32 values
    writer.add_tensor("second", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write(folder, data):
    changed = folder / "changed.gguf"
    changed.write_bytes(data)
    return changed


def test_everything_is_read_as_the_gguf_package_reads_it(path):
    """
    Values of each type, shapes outermost first, and where each tensor's bytes are.
    """
    header, reader = read_header(path), GGUFReader(path)

    expected = {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    assert header.values == expected
    assert [(t.name, t.shape[::-1], t.offset, t.num_bytes) for t in header.tensors.values()] == [
        (t.name, tuple(t.shape.tolist()), t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    assert header.tensors["second"].shape == (4, 64)


def test_a_file_cut_anywhere_is_called_corrupt(path, tmp_path):
    """
    At whatever byte the download stopped, it is noticed when the file is opened.
    """
    data = path.read_bytes()
    whole = max(t.offset + t.num_bytes for t in read_header(path).tensors.values())

    for num_bytes in range(4, whole):
        with pytest.raises(CorruptModel, match="corrupt or truncated"):
            read_header(write(tmp_path, data[:num_bytes]))


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(4, 10_000), st.integers(0, 255)), min_size=1))
def test_damaged_bytes_never_surprise(path, tmp_path_factory, changes):
    """
    Damage is called by name, or goes unnoticed in a string: no hang, no other error.
    """
    data = bytearray(path.read_bytes())
    for position, byte in changes:
        data[4 + position % (len(data) - 4)] = byte
    changed = write(tmp_path_factory.getbasetemp(), data)

    with suppress(ModelError):
        read_header(changed)


def test_an_absurd_length_is_not_believed(tmp_path):
    """
    A string of 2**60 bytes is refused at once, with the numbers.
    """
    data = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60)

    with pytest.raises(CorruptModel, match=f"{2**60} bytes at 32 in a file of 32 bytes"):
        read_header(write(tmp_path, data))


def test_another_version_is_refused(tmp_path):
    """
    The message has the version found and those that are read.
    """
    data = b"GGUF" + struct.pack("<IQQ", 1, 0, 0)

    with pytest.raises(UnsupportedModel, match="GGUF version 1 is not supported; supported: 2, 3"):
        read_header(write(tmp_path, data))
