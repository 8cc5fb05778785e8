"""What the loader and the masking cost, measured side by side with what the machine and the harness allow."""
