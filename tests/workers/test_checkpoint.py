import pytest

from workers.model.checkpoint import open_checkpoint
from workers.model.errors import CorruptModel, ModelMissing, NotAModel


def test_nothing_at_the_path(tmp_path):
    """
    The path is in the message.
    """
    with pytest.raises(ModelMissing, match=r"absent\.gguf: no such file or folder"):
        open_checkpoint(tmp_path / "absent.gguf")


@pytest.mark.parametrize("data", [b"", b"GG", b"<!DOCTYPE html>"])
def test_a_file_that_is_no_model(tmp_path, data):
    """
    An error page saved under a model's name is told by its first bytes.
    """
    (tmp_path / "page.gguf").write_bytes(data)

    with pytest.raises(NotAModel, match="begins with b'GGUF'"):
        open_checkpoint(tmp_path / "page.gguf")


def test_a_folder_that_is_no_model(tmp_path):
    """
    A model folder is told by its config.json.
    """
    with pytest.raises(NotAModel, match=r"config\.json, this one has none"):
        open_checkpoint(tmp_path)


def test_four_good_bytes_are_not_enough(tmp_path):
    """
    A GGUF file that ends after its first word is corrupt.
    """
    (tmp_path / "short.gguf").write_bytes(b"GGUF")

    with pytest.raises(CorruptModel, match="4 bytes at 4 in a file of 4 bytes"):
        open_checkpoint(tmp_path / "short.gguf")


def test_both_formats_open_and_close(tiny_llama):
    """
    Closing twice does no harm.
    """
    checkpoint = open_checkpoint(tiny_llama)
    checkpoint.close()
    checkpoint.close()
    assert checkpoint.config.num_layers == 2
