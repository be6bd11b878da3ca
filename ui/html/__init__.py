"""HTML from untrusted text: templates, charts, style sheet and script."""
