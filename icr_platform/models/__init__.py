"""Models and tokenizers: loading, identity, adapters, chat templates, and what rows of a batch may share."""
