"""What to expect of a GPU before there is one: begin with `plan.py`. No torch."""
