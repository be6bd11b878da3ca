"""What pages read: runs, artifacts and queries over them."""
