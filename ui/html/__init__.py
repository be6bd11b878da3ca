"""HTML from untrusted text: templates, charts, differences between texts, style sheet and script."""
