"""Implicit cross-lingual rewarding (arXiv 2503.04647) as an experiment platform on MLflow."""

__version__ = "0.1.0"
