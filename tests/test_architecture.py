"""
The rules about rooms, seen by breaking them.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("router", "balancer", "shm", "workers")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_ours(room):
    """
    The import names are plain words, so make sure that no other distribution's won.
    """
    assert Path(importlib.import_module(room).__file__).parent == ROOT / room


@pytest.mark.parametrize("room", ["router", "balancer", "shm"])
def test_room_starts_without_torch(room):
    """
    Only workers pay for importing torch.
    """
    code = f"import pkgutil, sys, {room}\n" + (
        f"[__import__(m.name) for m in pkgutil.walk_packages({room}.__path__, '{room}.')"
        " if not m.name.endswith('__main__')]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_scheduler_starts_without_torch():
    """
    A property test can drive the scheduler by the million only if it is light.
    """
    code = "import sys, workers.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_tests_are_one_package():
    """
    A tests/shm without a tests/__init__.py would be imported as shm itself.
    """
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_long(room):
    """
    Blank lines and docstrings count too: what is read is what is counted.
    """
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / room).rglob("*.py")}
    assert lengths
    assert {path for path, lines in lengths.items() if lines > MAX_FILE_LINES} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_no_function_is_long(room):
    """
    From `def` to its last line.
    """
    functions = [
        (path.name, node.name, node.end_lineno - node.lineno + 1)
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert functions
    assert [each for each in functions if each[-1] > MAX_FUNCTION_LINES] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("balancer", "import router.errors"),
        ("shm", "import balancer.errors"),
        ("router", "import workers.errors"),
        ("workers", "import balancer.errors"),
        ("router", "import torch"),
        ("workers", "import posix_ipc"),
        ("balancer", "import httpx"),
    ],
)
def test_a_planted_violation_is_refused(tmp_path, room, forbidden):
    """
    import-linter sees each kind of forbidden import when one is planted.
    """
    for name in ROOMS:
        _copy_room(ROOT / name, tmp_path / name)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / room / "planted.py").write_text(forbidden + "\n")

    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 1
    assert f"{room}.planted" in linted.stdout


def _copy_room(source, target):
    for path in source.rglob("*.py"):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
