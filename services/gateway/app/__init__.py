"""Assembly of a gateway, and the doors of its services."""
