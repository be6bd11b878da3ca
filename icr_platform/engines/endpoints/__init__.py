"""Models behind an OpenAI-compatible endpoint: asking, retrying, keeping the replies."""
