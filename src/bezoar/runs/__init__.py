"""The run folder: what was asked, what was measured, and the images that prove it."""

from bezoar.runs.folder import FORMAT, FileSnapshot, Run, default
from bezoar.runs.provenance import provenance

__all__ = ["FORMAT", "FileSnapshot", "Run", "default", "provenance"]
