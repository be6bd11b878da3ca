"""What every 95% interval and band is drawn with."""

Z95 = 1.959963984540054
"""Standard errors on each side of an estimate: 95% of the normal distribution lies between -Z95 and Z95."""
