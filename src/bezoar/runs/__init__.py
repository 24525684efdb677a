"""The run folder: what was asked, what was measured, and the images that prove it."""

from bezoar.runs.folder import FORMAT, Run
from bezoar.runs.provenance import provenance

__all__ = ["FORMAT", "Run", "provenance"]
