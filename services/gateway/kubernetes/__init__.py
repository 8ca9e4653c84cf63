"""What the gateway does in a cluster: where stages and decoders are, which pods to spare, which to mind, how
many there should be (`scaling`). Import `cluster` only where there is one: its client takes 64 MB."""
