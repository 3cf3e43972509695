-- Revoke all of a user's sessions that there are: from here on none of them counts.
-- KEYS[1]  index of the user, as in session_enter.lua
-- ARGV[1]  milliseconds that a session can live at most
-- reply    the hashes in the index, whose sessions are to be deleted, then their entries
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
local revoked = math.max(now, tonumber(newest[2] or 0)) -- a clock may have been set back
redis.call('ZADD', KEYS[1], string.format('%.0f', revoked), 'revoked')
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local hashes = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if member ~= 'revoked' then hashes[#hashes + 1] = member end
end
return hashes
