"""The train stage: DPO with a likelihood term, on the pairs that annotate chose."""
