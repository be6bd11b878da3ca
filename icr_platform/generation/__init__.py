"""Samplers: responses of a policy to prompts in every language."""
