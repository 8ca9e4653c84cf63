"""Ten minutes on a rented GPU: `make gpu` there, `make gpu-pack` before it. Needs Python and nothing else."""
