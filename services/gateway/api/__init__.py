"""What clients ask of a gateway, answered here or by the gateway that has the session (`forward.py`)."""
