"""One page a module: each has `show(inspector, focus) -> Content`; Spot-check and Agreement add their controls."""
