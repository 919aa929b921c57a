#!lua flags=allow-oom
-- Give a worker what it has room for: first what others dropped, then what waits longest.
-- KEYS wait, leases
-- ARGV shared key prefix, worker's name, its instance, room, lease (ms), most takeovers, whose leases need not have
--      ended: 'name' (an earlier process of this name is dead), 'instance' (an answer to a claim got lost) or '', then
--      the gids that it holds
-- Returns a list of {gid, spec, epoch, takeovers, cancel, enqueued, claimed, now, user, idem, place, 1 if it is new}
local wait, leases = unpack(KEYS)
local shared, name, instance = ARGV[1], ARGV[2], ARGV[3]
local room, lease, most_takeovers, own = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local me = name .. '/' .. instance
local held, holding = {}, #ARGV - 7
for n = 8, #ARGV do held[ARGV[n]] = true end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}

local function take(gid, fell)
  local key = shared .. ':gen:' .. gid
  if fell then redis.call('HINCRBY', key, 'takeovers', 1) end
  redis.call('HSET', key, 'owner', me, 'state', 'running')
  local new = redis.call('HSETNX', key, 'claimed', now)
  redis.call('HINCRBY', key, 'epoch', 1)
  redis.call('ZREM', wait, gid)
  redis.call('ZADD', leases, now + lease, gid)
  local found = redis.call('HMGET', key, 'spec', 'epoch', 'takeovers', 'cancel', 'enqueued', 'claimed', 'user', 'idem',
    'place')
  taken[#taken + 1] = {gid, found[1], found[2], found[3], found[4] or '', found[5], found[6], tostring(now), found[7],
    found[8], found[9], new}
end

-- What has brought two workers down runs alone the third time, so that it takes no other answer with it. For that the
-- batch has to become empty: nothing new is taken until then.
local function alone(takeovers) return takeovers == most_takeovers end
local function full() return #taken >= room end

local fallen = own ~= '' and redis.call('ZRANGE', leases, 0, -1) or redis.call('ZRANGEBYSCORE', leases, '-inf', now)
for _, gid in ipairs(fallen) do
  if full() then break end
  local found = redis.call('HMGET', shared .. ':gen:' .. gid, 'state', 'owner', 'takeovers')
  local owner = found[2] or ''
  if found[1] ~= 'running' then
    redis.call('ZREM', leases, gid)
  elseif owner == me then
    -- Held: writing renews it. Not held: the answer to an earlier claim got lost.
    if not held[gid] then take(gid, false) end
  elseif own == 'name' and string.sub(owner, 1, #name + 1) == name .. '/'
    or tonumber(redis.call('ZSCORE', leases, gid)) <= now then
    local takeovers = tonumber(found[3]) + 1
    if alone(takeovers) then
      if holding == 0 and #taken == 0 then take(gid, true) end
      return taken
    end
    take(gid, true)
  end
end
while not full() do
  local first = redis.call('ZRANGE', wait, 0, 0)[1]
  if not first then break end
  local found = redis.call('HMGET', shared .. ':gen:' .. first, 'state', 'takeovers')
  if found[1] ~= 'queued' then
    redis.call('ZREM', wait, first)
  elseif alone(tonumber(found[2])) then
    if holding == 0 and #taken == 0 then take(first, false) end
    return taken
  else
    take(first, false)
  end
end
return taken
