#!lua flags=allow-oom
-- Stop a generation: at once if no worker ever had it, else by telling its worker.
-- KEYS generation, events, wait, done
-- ARGV shared key prefix, gid, time to live (ms), last event, final record
-- Returns 'ended', 'told' or 'lost' (Redis does not know it)
local generation, events, wait, done = unpack(KEYS)
local shared, gid, ttl, last, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local found = redis.call('HMGET', generation, 'state', 'epoch', 'user', 'claimed')
if not found[1] then return 'lost' end
if found[1] == 'ended' then return 'ended' end
-- One that was handed over has text: only a worker can end it with that.
if found[1] == 'running' or found[4] then
  redis.call('HSET', generation, 'cancel', 1)
  return 'told'
end
redis.call('HSET', generation, 'state', 'ended')
redis.call('ZREM', wait, gid)
redis.call('SREM', shared .. ':act:' .. found[3], gid)
redis.call('XADD', events, (tonumber(found[2]) + 1) .. '-1', 'd', last)
redis.call('XADD', done, '*', 'd', record)
redis.call('PEXPIRE', generation, ttl)
redis.call('PEXPIRE', events, ttl)
return 'ended'
