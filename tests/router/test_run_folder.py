import os
import stat
import tempfile
from pathlib import Path

import pytest

from router.errors import ConfigError, StartError
from router.instance import Instance
from router.run_folder import make_run_folder, remove_run_folder, sweep_run_folders
from shm.process import this_process
from tests.router.fakes import unique_instance


@pytest.fixture(name="above")
def _above():
    """A folder whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="lh-") as folder:
        yield Path(folder)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_private_and_empty(above):
    """
    What a former life left in it is gone.
    """
    environment = {"XDG_RUNTIME_DIR": str(above)}
    left = make_run_folder("one", environment)
    (left / "group-0.json").write_text("{}")

    made = make_run_folder("one", environment)

    assert made == left == above / f"levelhead-{os.geteuid()}" / "one"
    assert list(made.iterdir()) == []
    assert mode_of(made) == mode_of(made.parent) == 0o700


def test_instances_have_folders_of_their_own(above):
    """
    Removing one leaves the other.
    """
    environment = {"XDG_RUNTIME_DIR": str(above)}
    one, other = (make_run_folder(name, environment) for name in ("one", "other"))

    remove_run_folder(one)
    remove_run_folder(one)

    assert not one.exists()
    assert other.exists()


def test_a_path_that_is_too_long_for_sockets_is_refused(above):
    """
    At the start, with a way out, rather than when a socket is bound.
    """
    deep = above / ("y" * 60)
    deep.mkdir()

    with pytest.raises(StartError, match="shorten --instance"):
        make_run_folder("x" * 40, {"XDG_RUNTIME_DIR": str(deep)})


def test_a_folder_that_cannot_be_made_is_refused(above):
    """
    With its path.
    """
    (above / f"levelhead-{os.geteuid()}").touch()

    with pytest.raises(StartError, match="cannot make the folder"):
        make_run_folder("one", {"XDG_RUNTIME_DIR": str(above)})


def test_a_runtime_folder_that_is_not_there_is_not_used(above):
    """
    Under su and in containers the variable names a folder that nobody made.
    """
    made = make_run_folder(unique_instance(), {"XDG_RUNTIME_DIR": str(above / "missing")})

    assert made.is_relative_to(tempfile.gettempdir())
    assert not made.is_relative_to(above)
    remove_run_folder(made)


def test_folders_of_dead_instances_are_swept(above):
    """
    Beside a new instance's, those whose root has ended; a live one's and a stranger's stay.
    """
    environment = {"XDG_RUNTIME_DIR": str(above)}
    live, dead, strange, new = (
        make_run_folder(name, environment) for name in ("live", "dead", "strange", "new")
    )
    save_instance(live, this_process())
    save_instance(dead, this_process()._replace(start_ticks=1))

    assert sweep_run_folders(new) == [dead]
    assert [folder.exists() for folder in (live, dead, strange, new)] == [True, False, True, True]


def save_instance(folder, root):
    Instance(
        name=folder.name, epoch=1, run_dir=str(folder), host="127.0.0.1", port=1, dp_size=1,
        root_pid=root.pid, root_start_ticks=root.start_ticks,
    ).save()  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(above):
    """
    Somebody may have made it first to read along.
    """
    foreign = above / f"levelhead-{os.geteuid()}"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)

    with pytest.raises(StartError, match="belongs to uid 65534"):
        make_run_folder("one", {"XDG_RUNTIME_DIR": str(above)})


def test_an_instance_is_read_as_it_was_written(tmp_path):
    """
    By its owner alone: the API key stands in it.
    """
    instance = Instance("one", 5, str(tmp_path), "127.0.0.1", 8000, 2, api_key="k")
    instance.save()

    assert Instance.load(tmp_path) == instance
    assert mode_of(tmp_path / "instance.json") == 0o600


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"name": 5, "unknown": 6}', b"[]"])
def test_a_folder_without_an_instance_is_refused(tmp_path, content):
    """
    Naming the flag and the folder.
    """
    if content is not None:
        (tmp_path / "instance.json").write_bytes(content)

    with pytest.raises(ConfigError, match=f"--run-dir {tmp_path}"):
        Instance.load(tmp_path)
