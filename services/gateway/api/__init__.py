"""What clients ask of a gateway."""
