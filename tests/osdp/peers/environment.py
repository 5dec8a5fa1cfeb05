"""An environment of its own for each peer: both packages install a module named `osdp`, and neither belongs to ours.

Made once per lock file, beside the project's own environment, and used again by later runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
INSTALL_S_MAX: Final = 120


def peer_python(peer: str) -> Path:
    """The interpreter of the environment that holds this peer; the test is skipped, with the reason, without one."""
    lock = ROOT / f"requirements-peer-{peer}.lock"
    home = ROOT / ".venv" / "peers" / f"{peer}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    arguments = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    arguments += ["--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", str(lock)]
    environment = {**os.environ, "PIP_USER": "0", "PIP_TARGET": "", "PIP_PREFIX": ""}
    for command in ([sys.executable, "-m", "venv", str(home)], [str(python), *arguments]):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSTALL_S_MAX, env=environment
        )
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            pytest.skip(f"{lock.name} cannot be installed here: {done.stderr.strip()[-300:]}")
    (home / "ready").touch()
    return python
