"""Settings of the documentation: plain Markdown, built offline, a warning is an error."""

from bezoar import __version__

project = "bezoar"
release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "bezoar"
