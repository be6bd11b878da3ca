"""What pages read: runs, their artifacts, and queries over these."""
