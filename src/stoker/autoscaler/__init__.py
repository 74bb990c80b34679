"""The control plane: routes requests, and sizes the fleet that serves them."""
