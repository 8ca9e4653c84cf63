"""The demo model: a synthetic world of moving shapes, the training that learns it, and its evaluation."""
