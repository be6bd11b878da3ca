"""The normal quantile behind every 95% interval."""

Z95 = 1.959963984540054
"""Two-sided: an estimate ± Z95 standard errors is its 95% interval."""
