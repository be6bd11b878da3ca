"""Words of a text, in languages that write them with spaces between and in those that do not."""
