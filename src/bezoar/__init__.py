"""Find how an image classifier is fooled, repair it by unlearning, prove the repair."""

__version__ = "0.1.0"
