"""DPO with a likelihood term on implicit preferences."""
