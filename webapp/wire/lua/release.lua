#!lua flags=allow-oom
-- Hand a generation back to its place in the queue, for another worker to go on with.
-- KEYS generation, wait, leases, jobs
-- ARGV gid, owner, epoch
-- Returns 'ok' or 'lost' (it has another owner)
local generation, wait, leases, jobs = unpack(KEYS)
local gid, owner, epoch = unpack(ARGV)
local found = redis.call('HMGET', generation, 'state', 'owner', 'epoch', 'place')
if found[1] ~= 'running' or found[2] ~= owner or found[3] ~= epoch then return 'lost' end
redis.call('HSET', generation, 'state', 'queued', 'owner', '')
redis.call('ZREM', leases, gid)
redis.call('ZADD', wait, found[4], gid)
redis.call('XADD', jobs, 'MAXLEN', '~', 100, '*', 'gid', gid)
return 'ok'
