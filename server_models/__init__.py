"""Networks, weights and export: what runs in the server's environment (numpy < 2, Triton, an engine)."""
