"""Readers of what people bring: prompts, preferences, reference outputs."""
