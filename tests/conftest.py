"""For all tests: one thread, since tiny products gain nothing from more, and bits depend on their number."""

import torch

torch.set_num_threads(1)
