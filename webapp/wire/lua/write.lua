#!lua flags=allow-oom
-- Append a worker's events to a generation that it owns, renew its lease, and end the generation if they end it.
-- KEYS generation, events, leases, done, pace
-- ARGV shared key prefix, gid, owner, epoch, id of the last event known to be written, renew by (ms; 0: not now),
--      drop events before this id (or ''), time to live (ms), final record (or ''), then id and JSON of each event
-- Returns 'ok', 'cancel' (somebody wants it stopped), 'lost' (it has another owner), 'gone' (Redis does not know it)
--      or 'gap' (Redis has forgotten events)
local generation, events, leases, done, pace = unpack(KEYS)
local shared, gid, owner, epoch, previous = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local renew, trim, ttl, record = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), ARGV[9]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function newer(a, b)
  local a_epoch, a_number = string.match(a, '(%d+)-(%d+)')
  local b_epoch, b_number = string.match(b, '(%d+)-(%d+)')
  if a_epoch ~= b_epoch then return tonumber(a_epoch) > tonumber(b_epoch) end
  return tonumber(a_number) > tonumber(b_number)
end

local found = redis.call('HMGET', generation, 'state', 'owner', 'epoch', 'cancel', 'user', 'claimed')
local state = found[1]
if not state then return 'gone' end
if found[2] ~= owner or found[3] ~= epoch or state == 'queued' then return 'lost' end
-- It was this owner who ended it: the answer to that got lost on the way, and here it comes again.
if state == 'ended' then return record ~= '' and 'ok' or 'lost' end

local top = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
top = top and top[1] or '0-0'
if newer(previous, top) then return 'gap' end
for n = 10, #ARGV, 2 do
  if newer(ARGV[n], top) then redis.call('XADD', events, ARGV[n], 'd', ARGV[n + 1]) end
end
if trim ~= '' then redis.call('XTRIM', events, 'MINID', trim) end
if record ~= '' then
  redis.call('HSET', generation, 'state', 'ended')
  redis.call('ZREM', leases, gid)
  redis.call('SREM', shared .. ':act:' .. found[5], gid)
  redis.call('XADD', done, '*', 'd', record)
  redis.call('PEXPIRE', generation, ttl)
  redis.call('PEXPIRE', events, ttl)
  local took, before = now - tonumber(found[6]), redis.call('GET', pace)
  redis.call('SET', pace, before and math.floor(0.8 * before + 0.2 * took) or took)
elseif renew > 0 then
  redis.call('ZADD', leases, now + renew, gid)
end
return found[4] and 'cancel' or 'ok'
