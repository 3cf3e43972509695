-- Enter a session into its user's index, unless the user's sessions of that time were revoked.
-- KEYS[1]  index of the user: a sorted set of token hashes by time of creation, and of `revoked`,
--          whose score is the time up to which all are revoked; epoch milliseconds
-- ARGV[1]  hash of the token
-- ARGV[2]  when the session was created, or 0 for one that is created now
-- ARGV[3]  milliseconds that a session can live at most
-- reply    when it was created; 0 if it is revoked, and then nothing was changed
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local revoked = tonumber(redis.call('ZSCORE', KEYS[1], 'revoked') or 0)
local created = tonumber(ARGV[2])
local life = tonumber(ARGV[3])
if created == 0 then
  created = math.max(now, revoked + 1)
elseif created <= revoked then
  return 0
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - life))
redis.call('ZADD', KEYS[1], string.format('%.0f', created), ARGV[1])
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return created
