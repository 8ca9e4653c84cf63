"""What `cascade doctor` looks at, one file each."""
