"""What `cascade` can do, one file each."""
