"""Serving the pages: Gradio with its controls, login, and what the server answers to whom."""
