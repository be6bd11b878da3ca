"""What runs when: one stage with its inputs, its lock and its run; T iterations of all of them."""
