"""vagitus: a few labelled heart, lung or cry recordings to a small model, proven subject by subject.

Research use only, not a diagnosis.
"""

__version__ = "0.1.0"
