"""What reviewers judge and in which order, their verdicts, and what these say in sum."""
