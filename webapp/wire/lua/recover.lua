#!lua flags=allow-oom
-- Put a generation back that Redis has forgotten, in whole or in part, as its owner knows it.
-- KEYS generation, events, leases
-- ARGV shared key prefix, gid, owner, new epoch, lease (ms), time to live (ms), start (or ''), snapshot, then user, idem, spec,
--      takeovers, place, enqueued, claimed
-- Returns 'ok' or 'lost' (it has another owner)
local generation, events, leases = unpack(KEYS)
local shared, gid, owner, epoch, lease, ttl, start, snapshot =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
local user, idem, spec, takeovers, place, enqueued, claimed = unpack(ARGV, 9)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local found = redis.call('HMGET', generation, 'state', 'owner', 'epoch')
if found[1] then
  if found[1] ~= 'running' or found[2] ~= owner then return 'lost' end
  if tonumber(found[3]) == epoch then return 'ok' end
  if tonumber(found[3]) ~= epoch - 1 then return 'lost' end
end
redis.call('HSET', generation, 'user', user, 'idem', idem, 'spec', spec, 'state', 'running', 'epoch', epoch, 'owner',
  owner, 'takeovers', takeovers, 'place', place, 'enqueued', enqueued, 'claimed', claimed)
redis.call('PERSIST', generation)
redis.call('SET', idem, gid, 'PX', ttl)
redis.call('SADD', shared .. ':act:' .. user, gid)
redis.call('ZADD', leases, now + lease, gid)
if start ~= '' then redis.call('XADD', events, epoch .. '-1', 'd', start) end
redis.call('XADD', events, epoch .. '-2', 'd', snapshot)
redis.call('PERSIST', events)
return 'ok'
