"""Responses of a policy: transformers, vLLM or a server."""
