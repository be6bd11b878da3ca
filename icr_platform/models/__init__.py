"""Models and tokenizers: loading, identity, chat template."""
