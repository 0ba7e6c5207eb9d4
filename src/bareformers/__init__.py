"""Find out which parts of a Transformer you can do without, and what you save."""

__version__ = "0.1.0"
