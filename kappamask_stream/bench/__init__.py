"""How many products an hour: the server alone, the client alone, both together, and which of them is the limit."""
