"""Where results come from: command, version, revision, machine."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

import bezoar


def provenance(command: str) -> dict[str, str]:
    """What a reader needs in order to make the same results again, as words."""
    return {
        "command": command,
        "version": bezoar.__version__,
        "revision": revision(),
        "machine": machine(),
    }


def machine() -> str:
    """Kind of machine, without its name: cores, CPU or GPU, system, Python, torch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    python = ".".join(map(str, sys.version_info[:3]))
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {device}, {system}, Python {python}, torch {torch.__version__}"


def revision() -> str:
    """Git revision that bezoar runs from, with a + when files differ; "unknown" outside git."""
    folder = Path(bezoar.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
