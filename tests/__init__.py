"""Tests. A package, so that every suite and benchmark imports `tests.support` the same way."""
