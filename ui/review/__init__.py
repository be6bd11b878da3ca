"""What reviewers judge, their verdicts, and how far they agree."""
