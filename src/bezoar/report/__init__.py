"""What a run folder says, for readers: figures, tables and one page.

Nothing here loads torch; ``figures`` and what draws with it load matplotlib. Import the part that
is needed: ``from bezoar.report.pages import render``.
"""
