#!lua flags=allow-oom
-- A worker's heartbeat.
-- KEYS workers, worker
-- ARGV name, state as JSON
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600000)
redis.call('SET', KEYS[2], ARGV[2], 'EX', 3600)
