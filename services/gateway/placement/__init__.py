"""Who gets which place, and when: begin with `admission.py`."""
