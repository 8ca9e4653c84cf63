"""For all tests: one thread, since tiny products gain nothing from more, and bits depend on their number.

And Ctrl-C as a terminal gives it: what a shell starts in the background ignores it, and so do its children.
"""

import signal

import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
