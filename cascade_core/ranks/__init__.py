"""The rank processes: what travels to them (`messages.py`), and what they do with it (`runner.py`)."""
