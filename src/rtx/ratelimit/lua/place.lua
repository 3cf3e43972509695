-- Takes or keeps one of the places that an id may have at once.
--
-- KEYS[1]  sorted set: a token for each holder, by when its lease ends in milliseconds since 1970
-- ARGV[1]  token of the holder
-- ARGV[2]  places
-- ARGV[3]  lease in milliseconds
-- ARGV[4]  1 to keep a place only, 0 to take one
-- reply    1 if the token has a place from now on for a lease, 0 if not, -2 if the key holds
--          something else; places that are taken; milliseconds until the next lease ends
--
-- A token that has a place keeps it, so that a take may be sent twice.
local key, token = KEYS[1], ARGV[1]
local places, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = redis.pcall('ZREMRANGEBYSCORE', key, '-inf', now)
if type(gone) == 'table' then
  if string.find(gone.err, 'WRONGTYPE', 1, true) then return {-2, 0, 0} end
  return gone
end

local taken, held = redis.call('ZCARD', key), redis.call('ZSCORE', key, token)
if held or (ARGV[4] == '0' and taken < places) then
  redis.call('ZADD', key, now + lease, token)
  if redis.call('PTTL', key) < lease then redis.call('PEXPIRE', key, lease) end
  return {1, held and taken or taken + 1, 0}
end
local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
return {0, taken, first[2] and first[2] - now or 0}
