-- Take a generation into the queue, or say why not.
-- KEYS idempotency, generation, active, wait, jobs, pace
-- ARGV gid, user, spec, shared key prefix, time to live (ms), most active of a user, most a minute, most waiting,
--      first epoch
-- Returns {'accepted' or 'existing', gid, position, waiting} or {'busy', why, retry after (ms)}
local idem, generation, active, wait, jobs, pace = unpack(KEYS)
local gid, user, spec, shared = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, most_active, most_a_minute, most_waiting =
  tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local known = redis.call('GET', idem)
if known then
  local rank = redis.call('ZRANK', wait, known)
  return {'existing', known, rank and rank + 1 or 0, redis.call('ZCARD', wait)}
end

local answer_ms = math.floor(tonumber(redis.call('GET', pace) or '2000'))
if redis.call('SCARD', active) >= most_active then
  -- An entry that was never cleared must not lock a user out for good.
  for _, other in ipairs(redis.call('SMEMBERS', active)) do
    local state = redis.call('HGET', shared .. ':gen:' .. other, 'state')
    if not state or state == 'ended' then redis.call('SREM', active, other) end
  end
  if redis.call('SCARD', active) >= most_active then return {'busy', 'user', answer_ms} end
end

local rate = shared .. ':rate:' .. user .. ':' .. math.floor(now / 60000)
if tonumber(redis.call('GET', rate) or '0') >= most_a_minute then
  return {'busy', 'rate', 60000 - now % 60000}
end

local waiting = redis.call('ZCARD', wait)
if waiting >= most_waiting then return {'busy', 'queue', answer_ms} end

local place = redis.call('INCR', shared .. ':places')
redis.call('HSET', generation, 'user', user, 'idem', idem, 'spec', spec, 'state', 'queued', 'epoch', ARGV[9], 'owner', '',
  'takeovers', 0, 'place', place, 'enqueued', now)
redis.call('SET', idem, gid, 'PX', ttl)
redis.call('SADD', active, gid)
redis.call('INCR', rate)
redis.call('PEXPIRE', rate, 120000)
redis.call('ZADD', wait, place, gid)
redis.call('XADD', jobs, 'MAXLEN', '~', 100, '*', 'gid', gid)
return {'accepted', gid, redis.call('ZRANK', wait, gid) + 1, waiting + 1}
