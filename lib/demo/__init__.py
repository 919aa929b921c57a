"""The demo's stand-ins, all written by this project: a corpus in Cendol's schema, its English twin and a tiny Llama."""
