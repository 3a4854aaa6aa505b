"""The worker: from a queue of messages to masks, day and night."""
