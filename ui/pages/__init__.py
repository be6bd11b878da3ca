"""The pages, one a module, and the table of them."""
