"""The process that holds the model: it takes generations from Redis, decodes them together and writes their tokens."""
