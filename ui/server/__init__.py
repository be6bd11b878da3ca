"""Gradio, login and the HTTP side of the inspector."""
