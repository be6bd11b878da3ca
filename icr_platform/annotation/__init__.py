"""Implicit rewards of responses, length control and preference pairs."""
