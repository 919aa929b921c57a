"""All that site and worker say to each other, and the only code that knows Redis.

A generation is one hash. While it waits it stands in a sorted set; while a worker decodes it, in another, with the time
at which that worker's lease ends. What the worker writes goes to a stream of its own. Every change of owner or state
is one Lua script, so that no crash can leave one half done.
"""
